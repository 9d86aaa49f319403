/** Files to a server and from it. */
import * as v from 'valibot';
import type { ComfyFile } from '../../core/comfyui.ts';
import { StudioError } from '../../core/errors.ts';
import { jsonOf } from '../http/server_calls.ts';
import type { ServerCalls } from '../http/server_calls.ts';
import type { ListedFile } from './outputs.ts';
import { otherStatus } from './refusal.ts';
import { ServerFailure } from './server_failure.ts';

/** The folder for our uploads on the server. */
const FOLDER = 'darkroom';

const placedSchema = v.object({ name: v.pipe(v.string(), v.nonEmpty()), subfolder: v.fallback(v.string(), '') });

/**
 * Uploads under a name derived from the bytes, so the same file is stored once and nobody's is overwritten.
 * @returns the name for nodes, which the server may have changed
 */
export async function upload(calls: ServerCalls, file: Blob): Promise<string> {
  await judgeSize(calls, file.size);
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', await file.arrayBuffer()));
  const name = [...hash].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const extension = (file.type.split('/')[1] ?? 'bin').split(/[;+]/)[0].replace('jpeg', 'jpg');
  const form = new FormData();
  form.append('image', file, `${name}.${extension}`);
  form.append('subfolder', FOLDER);
  form.append('type', 'input');
  const answer = await calls.ask('/upload/image', { method: 'POST', body: form });
  const placed = v.safeParse(placedSchema, await jsonOf(answer));
  if (answer.status !== 200 || !placed.success) {
    throw new ServerFailure('unable', 'origin_unavailable', otherStatus(answer.status, calls.options.name));
  }
  return placed.output.subfolder === '' ? placed.output.name : `${placed.output.subfolder}/${placed.output.name}`;
}

/** A page cannot see that a body was too large for the server: it looks as if the server were gone. */
async function judgeSize(calls: ServerCalls, bytes: number): Promise<void> {
  const features = await jsonOf(await calls.ask('/features'));
  const most = (features as { max_upload_size?: unknown } | undefined)?.max_upload_size;
  if (typeof most === 'number' && bytes > most) {
    throw new ServerFailure(
      'unable',
      'invalid_operation',
      `${calls.options.name} takes files of at most ${Math.floor(most / 2 ** 20)} MB; use a smaller one, or start it with a larger --max-upload-size.`,
    );
  }
}

/** @throws StudioError `result_invalid` for a listed file that the server does not have */
export async function download(
  calls: ServerCalls,
  { node, kind, filename, subfolder, type }: ListedFile,
): Promise<ComfyFile> {
  const query = new URLSearchParams({ filename, subfolder, type });
  const { status, headers, body } = await calls.ask(`/view?${query}`);
  if (status !== 200) {
    throw new StudioError(
      'result_invalid',
      `${calls.options.name} made "${filename}" but does not give it (${status}); look into its output folder, or try again.`,
      { retry: 'same' },
    );
  }
  const mime = headers.get('content-type') ?? '';
  return { kind, node, name: { filename, subfolder, type }, file: new Blob([body], { type: mime }) };
}
