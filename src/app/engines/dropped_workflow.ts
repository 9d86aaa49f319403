/** The workflow in a given file: JSON in either form, or a picture that contains one. */
import * as v from 'valibot';
import { editorSchema } from '../../core/editor_workflow.ts';
import { readGraph } from '../../core/workflow.ts';

/** @throws StudioError `invalid_operation` for a file without one */
export async function workflowIn(file: File): Promise<unknown> {
  const { readMetadata } = await import('../../formats/container.ts');
  const metadata = await readMetadata(new Uint8Array(await file.arrayBuffer()));
  const text = metadata ? (metadata.texts.get('prompt') ?? metadata.texts.get('workflow') ?? '') : await file.text();
  const json = parsed(text);
  // Only the servers know what the nodes of an editor's workflow take.
  return v.is(editorSchema, json) ? json : readGraph(json);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
