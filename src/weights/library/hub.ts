/**
 * Repositories on the Hugging Face hub: their content at a revision, and the URLs of their files.
 * https://huggingface.co/docs/hub/api, and huggingface_hub's hf_raise_for_status for what its errors mean.
 */
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import type { Listing, Origin } from './library_api.ts';
import { licenseOf } from './license.ts';
import { isPath } from './records.ts';
import type { Requests } from './requests.ts';

const HUB = 'https://huggingface.co';

const REPO = /^[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9][\w.-]{0,95}$/;
const COMMIT = /^[0-9a-f]{40}$/;

const text = v.fallback(v.nullish(v.string()), null);
const modelSchema = v.looseObject({
  sha: v.pipe(v.string(), v.regex(COMMIT)),
  /** false, or how access is granted: `auto` or `manual`. */
  gated: v.fallback(v.optional(v.union([v.boolean(), v.string()]), false), false),
  cardData: v.fallback(
    v.nullish(
      v.looseObject({
        license: v.fallback(
          v.nullish(
            v.union([
              v.string(),
              v.pipe(
                v.array(v.string()),
                v.transform((all) => all[0]),
              ),
            ]),
          ),
          null,
        ),
        license_name: text,
        license_link: text,
      }),
    ),
    null,
  ),
  siblings: v.array(
    v.looseObject({
      rfilename: v.string(),
      size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
      /** The Git object of a file outside LFS is its content with a short header. */
      blobId: v.fallback(v.optional(v.pipe(v.string(), v.regex(COMMIT))), undefined),
      lfs: v.nullish(v.looseObject({ sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)) })),
    }),
  ),
});

/**
 * @throws StudioError `invalid_operation` (no such name), `origin_unavailable`, `checkpoint_unsupported` (only pickles),
 *   `checkpoint_incomplete` (no weights at all)
 */
export async function lookAtHub(
  requests: Requests,
  origin: Extract<Origin, { kind: 'hub' }>,
  token: string | null,
  signal: AbortSignal,
): Promise<Listing> {
  const { repo, revision } = origin;
  if (!REPO.test(repo) || repo.includes('..')) {
    throw new StudioError(
      'invalid_operation',
      `"${repo.slice(0, 200)}" is not the name of a repository; write it as org/name, such as stabilityai/sd-turbo.`,
    );
  }
  const url = `${HUB}/api/models/${repo}/revision/${encodeURIComponent(revision ?? 'main')}?blobs=true`;
  const address = { url, path: `the list of files of ${repo}`, token };
  const answer = await requests.text(address, signal, (response) => hubRefusal(response, repo, revision, token));
  const model = parseModel(answer, repo);
  const files = model.siblings
    .filter(({ rfilename }) => isPath(rfilename))
    .map(({ rfilename, size, lfs, blobId }) => ({
      path: rfilename,
      size,
      sha256: lfs?.sha256 ?? null,
      ...(!lfs && blobId ? { gitSha1: blobId } : {}),
    }));
  requireWeights(
    repo,
    files.map(({ path }) => path),
  );
  return {
    ref: `hub:${repo}@${model.sha}`,
    name: repo,
    origin: { kind: 'hub', repo, revision },
    revision: model.sha,
    license: license(model, repo),
    gated: model.gated !== false,
    files,
  };
}

/** The URL of a repository's file at a commit. The hub redirects to its CDN. */
export function hubFile(repo: string, commit: string, path: string): string {
  return `${HUB}/${repo}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`;
}

/** @throws StudioError `checkpoint_unsupported` for the name of a file that only Python could read */
export function refusePickle(name: string): void {
  if (/\.(bin|ckpt|pt|pth)$/i.test(name)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${name} is a pickle, which can run code; get the .safetensors version of it.`,
    );
  }
}

/** Reports, before anything is fetched, if there is nothing to run. */
export function requireWeights(name: string, paths: readonly string[]): void {
  if (paths.some((path) => /\.(safetensors|onnx|gguf)$/.test(path))) {
    return;
  }
  const pickle = paths.find((path) => /\.(bin|ckpt|pt|pth)$/.test(path));
  throw pickle
    ? new StudioError(
        'checkpoint_unsupported',
        `${name} has its weights only as ${pickle}, a pickle that can run code; choose a checkpoint with .safetensors files.`,
      )
    : new StudioError(
        'checkpoint_incomplete',
        `${name} holds no weights (no .safetensors and no .onnx file); choose another checkpoint.`,
      );
}

function parseModel(answer: string, repo: string): v.InferOutput<typeof modelSchema> {
  try {
    return v.parse(modelSchema, JSON.parse(answer));
  } catch (cause) {
    throw new StudioError(
      'origin_unavailable',
      `The hub's list of files of ${repo} cannot be understood; check whether this network asks you to sign in, or try again later.`,
      { cause },
    );
  }
}

function license({ cardData, sha, siblings }: v.InferOutput<typeof modelSchema>, repo: string): Listing['license'] {
  const id = cardData?.license ?? null;
  const name = id === 'other' ? (cardData?.license_name ?? id) : id;
  const file = siblings.find(({ rfilename }) => /^licen[cs]e(\.(md|txt))?$/i.test(rfilename))?.rfilename;
  const link = cardData?.license_link ?? file ?? null;
  const base = `${HUB}/${repo}/blob/${sha}/`;
  return licenseOf(name, link !== null && URL.canParse(link, base) ? new URL(link, base).href : null);
}

function hubRefusal(response: Response, repo: string, revision: string | null, token: string | null): Error | null {
  const { status, headers } = response;
  const refuse = (sentence: string) => new StudioError('origin_unavailable', sentence);
  const code = headers.get('X-Error-Code');
  if (code === 'RevisionNotFound') {
    return refuse(
      `${repo} has no revision "${revision ?? 'main'}" (any more); leave the revision out, or take another one from its page.`,
    );
  }
  if (code === 'GatedRepo' || status === 403) {
    return refuse(
      token === null
        ? `${repo} is given only to people who were granted access; accept its conditions on ${HUB}/${repo}, then give a token of your account.`
        : `This token's account has no access to ${repo}; accept its conditions on ${HUB}/${repo} with that account first.`,
    );
  }
  if (status === 401 && token !== null) {
    return refuse('The hub does not know this token; make a new one in the settings of your account there.');
  }
  // The hub does not distinguish missing from private repositories.
  if (status === 401 || status === 404) {
    return refuse(
      `There is no public repository "${repo}" on the hub; check its spelling${token === null ? ', or give a token if it is a private one' : ''}.`,
    );
  }
  return null;
}
