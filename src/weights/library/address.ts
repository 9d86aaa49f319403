/**
 * Checkpoints at a plain URL: a folder with `model_index.json` or `modular_model_index.json`, or one `.safetensors` file. Web servers do not list folders, so files are
 * found by the names diffusers and transformers save them under.
 */
import * as v from 'valibot';
import { INDEX, MODULAR_INDEX } from '../../core/checkpoint_indexes.ts';
import { StudioError } from '../../core/errors.ts';
import type { ListedFile, Listing, Origin } from './library_api.ts';
import { requireWeights } from './hub.ts';
import { licenseOf } from './license.ts';
import { isPath } from './records.ts';
import { WebPage } from './requests.ts';
import type { Requests } from './requests.ts';

const indexSchema = v.looseObject({ _class_name: v.string() });
const componentSchema = v.looseTuple([v.string(), v.string()]);
const shardsSchema = v.looseObject({ weight_map: v.record(v.string(), v.string()) });

const STEMS = ['diffusion_pytorch_model', 'model'];
const VARIANTS = ['', '.fp16', '.bf16'];

/** What a component's folder can contain besides shards. */
const NAMES = [
  'config.json',
  'scheduler_config.json',
  'preprocessor_config.json',
  'tokenizer_config.json',
  'tokenizer.json',
  'vocab.json',
  'merges.txt',
  'special_tokens_map.json',
  'chat_template.jinja',
  'added_tokens.json',
  'spiece.model',
  ...STEMS.flatMap((stem) => VARIANTS.map((variant) => `${stem}${variant}.safetensors`)),
  'model.onnx',
  'model.onnx_data',
];
const SHARD_INDICES = STEMS.flatMap((stem) => [
  `${stem}.safetensors.index.json`,
  `${stem}.safetensors.index.fp16.json`,
  `${stem}.fp16.safetensors.index.json`,
]);

/** Which of {@link NAMES} a component has; the others are not requested. */
function namesFor({ name: component, className }: { name: string; className: string }): string[] {
  if (/Scheduler$/.test(className)) {
    return ['scheduler_config.json'];
  }
  // Of models that also see pictures, modular pipelines have a processor in place of the tokenizer, whose files are among its own.
  if (/Tokenizer(Fast)?$/.test(className) || component === 'tokenizer') {
    return NAMES.filter((name) => /token|vocab|merges|spiece|template/.test(name));
  }
  if (/(Extractor|Processor)(Fast)?$/.test(className)) {
    return ['preprocessor_config.json'];
  }
  return NAMES.filter((name) => name === 'config.json' || /^(model|diffusion)/.test(name));
}

/**
 * @throws StudioError `invalid_operation` (no address), `origin_unavailable`, `checkpoint_incomplete`, `checkpoint_unsupported`
 */
export async function lookAtAddress(
  requests: Requests,
  origin: Extract<Origin, { kind: 'url' }>,
  signal: AbortSignal,
): Promise<Listing> {
  const url = parseAddress(origin.url);
  if (!(await requests.network.allows(url))) {
    throw new StudioError(
      'origin_unavailable',
      `This page may not speak to ${url.host}; whoever serves it can allow that host (DARKROOM_HOSTS), or download the folder and open it from disk.`,
    );
  }
  const file = /\.safetensors$/i.test(url.pathname)
    ? decodeURIComponent(url.pathname.split('/').at(-1) as string)
    : null;
  if (file === null && /\.(bin|ckpt|pt|pth)$/i.test(url.pathname)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${url.href} is a pickle, which can run code; get the .safetensors version of this checkpoint.`,
    );
  }
  if (file === null && !url.pathname.endsWith('/')) {
    url.pathname += '/';
  }
  const files = file === null ? await findFiles(requests, url, signal) : [await theFile(requests, url, file, signal)];
  return {
    ref: `url:${url.href}`,
    name: file ?? decodeURIComponent(url.pathname.split('/').at(-2) || url.host),
    origin: { kind: 'url', url: url.href },
    revision: null,
    license: licenseOf(null, null),
    gated: false,
    files,
  };
}

/** Where a file of such a checkpoint is. */
export function addressedFile(address: string, path: string): string {
  return address.endsWith('/') ? new URL(path.split('/').map(encodeURIComponent).join('/'), address).href : address;
}

function parseAddress(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (!url || (url.protocol !== 'https:' && url.protocol !== 'http:') || url.username !== '') {
    throw new StudioError(
      'invalid_operation',
      `"${text.slice(0, 200)}" is not a web address; it begins with https:// and names a folder or a .safetensors file.`,
    );
  }
  url.hash = '';
  return url;
}

async function theFile(requests: Requests, url: URL, path: string, signal: AbortSignal): Promise<ListedFile> {
  const size = await requests.probe({ url: url.href, path, token: null }, signal);
  if (size === undefined) {
    throw new StudioError('origin_unavailable', `There is no ${path} at ${url.host}; check the address.`);
  }
  return { path, size: known(size, path, url), sha256: null };
}

async function findFiles(requests: Requests, base: URL, signal: AbortSignal): Promise<ListedFile[]> {
  const { path: indexPath, index } = await firstIndex(requests, base, signal);
  const classes = Object.entries(index).flatMap(([name, entry]) => {
    const parsed = v.safeParse(componentSchema, entry);
    return parsed.success && isPath(name) && !name.includes('/') ? [{ name, className: parsed.output[1] }] : [];
  });
  const wanted = new Set<string>([indexPath]);
  for (const one of classes) {
    namesFor(one).forEach((file) => wanted.add(`${one.name}/${file}`));
  }
  const shards = await Promise.all(
    classes
      .filter((one) => namesFor(one).includes('config.json'))
      .map(({ name }) => shardsOf(requests, base, name, signal)),
  );
  shards.flat().forEach((path) => wanted.add(path));
  const found = await Promise.all(
    [...wanted].map(async (path): Promise<ListedFile[]> => {
      const size = await probeOrAbsent(requests, base, path, signal);
      return size === undefined ? [] : [{ path, size: known(size, path, base), sha256: null }];
    }),
  );
  const files = found.flat();
  requireWeights(
    base.href,
    files.map(({ path }) => path),
  );
  return files;
}

interface FolderIndex {
  path: string;
  index: Record<string, unknown>;
}

async function firstIndex(requests: Requests, base: URL, signal: AbortSignal): Promise<FolderIndex> {
  try {
    return await readIndex(requests, base, INDEX, signal);
  } catch (error) {
    if (!(error instanceof StudioError && error.code === 'checkpoint_incomplete')) {
      throw error;
    }
    return readIndex(requests, base, MODULAR_INDEX, signal).catch(() => {
      throw error;
    });
  }
}

async function readIndex(requests: Requests, base: URL, path: string, signal: AbortSignal): Promise<FolderIndex> {
  const address = { url: addressedFile(base.href, path), path, token: null };
  const text = await requests.text(address, signal, ({ status }) =>
    status === 404 || status === 410
      ? new StudioError(
          'checkpoint_incomplete',
          `There is no ${path} at ${base.href}; give the address of a folder in the diffusers layout, or of one .safetensors file.`,
        )
      : null,
  );
  try {
    return { path, index: v.parse(indexSchema, JSON.parse(text)) };
  } catch (cause) {
    throw new StudioError(
      'checkpoint_damaged',
      `${path} at ${base.href} is not a list of components; check the address.`,
      {
        cause,
      },
    );
  }
}

/** The shard indices of a component and the shards they name. */
async function shardsOf(requests: Requests, base: URL, component: string, signal: AbortSignal): Promise<string[]> {
  const found: string[] = [];
  for (const name of SHARD_INDICES) {
    const path = `${component}/${name}`;
    if ((await probeOrAbsent(requests, base, path, signal)) === undefined) {
      continue;
    }
    const text = await requests.text({ url: addressedFile(base.href, path), path, token: null }, signal);
    let shards: string[];
    try {
      shards = Object.values(v.parse(shardsSchema, JSON.parse(text)).weight_map);
    } catch (cause) {
      throw new StudioError('checkpoint_damaged', `${path} does not list its weights; check the address.`, { cause });
    }
    found.push(
      path,
      ...new Set(
        shards.filter((shard) => !shard.includes('/') && isPath(shard)).map((shard) => `${component}/${shard}`),
      ),
    );
  }
  return found;
}

/** Some servers answer any request with a web page. */
async function probeOrAbsent(
  requests: Requests,
  base: URL,
  path: string,
  signal: AbortSignal,
): Promise<number | null | undefined> {
  try {
    return await requests.probe({ url: addressedFile(base.href, path), path, token: null }, signal);
  } catch (error) {
    if (error instanceof WebPage) {
      return undefined;
    }
    throw error;
  }
}

function known(size: number | null, path: string, url: URL): number {
  if (size === null) {
    throw new StudioError(
      'origin_unavailable',
      `${url.host} does not say how large ${path} is, so it cannot be fetched safely; download the folder and open it from disk.`,
    );
  }
  return size;
}
