/** Parses what a person types to say where a checkpoint is. */
import { StudioError } from '../../core/errors.ts';
import type { Origin } from '../../weights/library/library_api.ts';

const HUB = 'https://huggingface.co/';
const HUB_HOSTS = new Set(['huggingface.co', 'www.huggingface.co', 'hf.co']);
const REPO = /^[\w.-]+\/[\w.-]+$/;
const REVISION = /^[\w./-]+$/;
const WEIGHTS = /\.safetensors$/i;

/**
 * Parses `org/name`, `org/name@revision`, a link to a page or file on the hub, or an https URL of a folder or file.
 * @throws StudioError `invalid_operation`
 */
export function parseOrigin(text: string): Origin {
  const words = text.trim();
  if (words === '') {
    throw wrong('Type where the checkpoint is, such as org/name, or its https address.');
  }
  const address = /^(www\.)?(huggingface\.co|hf\.co)\//i.test(words) ? `https://${words}` : words;
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(address)) {
    return fromAddress(address);
  }
  const at = words.indexOf('@');
  const repo = at < 0 ? words : words.slice(0, at);
  const revision = at < 0 ? null : words.slice(at + 1);
  if (!REPO.test(repo) || (revision !== null && !REVISION.test(revision))) {
    throw wrong(
      `"${words}" is not a name like org/name or org/name@revision, and no https address; check how it is written.`,
    );
  }
  return { kind: 'hub', repo, revision };
}

/** The page of a hub repository, where people ask for access and read its licence. */
export function hubPage(repo: string): string {
  return HUB + repo;
}

/** The form in which it can be typed again: `org/name@revision`, or the URL. */
export function originText(origin: Origin): string {
  if (origin.kind === 'url') {
    return origin.url;
  }
  return origin.revision === null ? origin.repo : `${origin.repo}@${origin.revision}`;
}

function fromAddress(text: string): Origin {
  const url = URL.parse(text);
  if (!url) {
    throw wrong(`"${text}" is not an address that can be read; check how it is written.`);
  }
  if (url.protocol !== 'https:') {
    throw wrong(
      'Only addresses that begin with https:// can be used; what comes by others could have been changed on the way.',
    );
  }
  if (HUB_HOSTS.has(url.hostname)) {
    return fromHub(url, text);
  }
  url.hash = '';
  if (!WEIGHTS.test(url.pathname)) {
    url.search = '';
    url.pathname = url.pathname.replace(/(?:modular_)?model_index\.json$/, '').replace(/\/*$/, '/');
  }
  return { kind: 'url', url: url.href };
}

function fromHub(url: URL, text: string): Origin {
  const [org, name, view, revision, ...path] = url.pathname.split('/').filter(Boolean).map(decodeURIComponent);
  const repo = `${org}/${name}`;
  if (name === undefined || org === 'datasets' || org === 'spaces' || !REPO.test(repo)) {
    throw wrong(`"${text}" does not lead to a model on the hub; open the model's own page and copy its address.`);
  }
  if (revision === undefined || view === undefined || !['tree', 'blob', 'resolve', 'commit'].includes(view)) {
    return { kind: 'hub', repo, revision: null };
  }
  // A file at the top of a repository is a checkpoint of its own; deeper ones are parts of the repository's.
  if (path.length === 1 && WEIGHTS.test(path[0] ?? '')) {
    return {
      kind: 'url',
      url: `${HUB}${repo}/resolve/${encodeURIComponent(revision)}/${encodeURIComponent(path[0] ?? '')}`,
    };
  }
  return { kind: 'hub', repo, revision };
}

function wrong(message: string): StudioError {
  return new StudioError('invalid_operation', message);
}
