/** The command line's arguments, and the operation they name. */
import { existsSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Failure } from './failure.js';
import { parseJson } from './json.js';
import { decodeText } from './text_file.js';

const USAGE =
  'npm run --silent generate -- operation.json --out DIR [--checkpoint DIR|FILE.safetensors|ORG/NAME[@REVISION]|ADDRESS] [--language DIR|ORG/NAME[@REVISION]|openai_chat@ADDRESS#MODEL] [--backend webgpu|wasm|cpu]';

/** How a language model on a server is named (`readRemoteModel` of `src/core/remote.ts`). */
const REMOTE_MODEL = /^[a-z][a-z0-9_]*@https?:\/\/[^#]+#.+$/;

/** @type {Record<string, { what: string, kinds: string, types: Record<string, string> }>} */
const FILES = {
  image: {
    what: 'picture',
    kinds: 'PNG, JPEG or WebP',
    types: { '.png': 'image/png', '.jpg': 'image/jpeg', '.jpeg': 'image/jpeg', '.webp': 'image/webp' },
  },
  audio: {
    what: 'sound',
    kinds: 'WAV, FLAC, MP3, Ogg, M4A, WebM or MP4',
    types: {
      '.wav': 'audio/wav',
      '.flac': 'audio/flac',
      '.mp3': 'audio/mpeg',
      '.ogg': 'audio/ogg',
      '.opus': 'audio/ogg',
      '.m4a': 'audio/mp4',
      '.weba': 'audio/webm',
      '.webm': 'video/webm',
      '.mp4': 'video/mp4',
    },
  },
};

/** @typedef {import('../src/weights/library/library_api.ts').Origin} Origin */
/** @typedef {import('../src/core/named_files.ts').NamedFile} NamedFile */

/**
 * @typedef {object} Request
 * @property {string} operation path of the operation's file
 * @property {string} out folder that takes the results
 * @property {string | null} checkpoint folder of a checkpoint, or its one file
 * @property {Origin | null} origin where one is to be fetched from
 * @property {string | null} language folder of a language model or voice
 * @property {Origin | null} languageOrigin where one is to be fetched from
 * @property {string | null} languageRef of one on a server
 * @property {'auto' | 'webgpu' | 'wasm' | 'cpu'} backend `cpu` needs no browser
 */

/**
 * @param {string[]} words the arguments as given
 * @param {string} from the folder that relative paths start at
 * @returns {Request}
 */
export function parseArguments(words, from) {
  let parsed;
  try {
    parsed = parseArgs({
      args: words,
      allowPositionals: true,
      options: {
        out: { type: 'string' },
        checkpoint: { type: 'string' },
        language: { type: 'string' },
        backend: { type: 'string' },
      },
    });
  } catch (error) {
    throw new Failure('usage', `${/** @type {Error} */ (error).message.split('. ')[0]}; use: ${USAGE}`);
  }
  const { values, positionals } = parsed;
  const backend = values.backend ?? 'auto';
  if (positionals.length !== 1 || values.out === undefined) {
    throw new Failure('usage', `One operation file and --out are needed; use: ${USAGE}`);
  }
  if (backend !== 'auto' && backend !== 'webgpu' && backend !== 'wasm' && backend !== 'cpu') {
    throw new Failure('usage', `The backend "${backend}" does not exist; use: ${USAGE}`);
  }
  const { path: checkpoint, origin } = placeOf(values.checkpoint, from);
  const languageRef = REMOTE_MODEL.test(values.language ?? '') ? (values.language ?? null) : null;
  const { path: language, origin: languageOrigin } = placeOf(languageRef === null ? values.language : undefined, from);
  return {
    operation: resolve(from, positionals[0]),
    out: resolve(from, values.out),
    checkpoint,
    origin,
    language,
    languageOrigin,
    languageRef,
    backend,
  };
}

/**
 * The operation with this language model for each of these steps, unless it names another.
 * @param {unknown} operation
 * @param {readonly string[]} steps
 * @param {string} ref
 * @returns {unknown}
 */
export function withModel(operation, steps, ref) {
  const { checkpoints, ...others } = /** @type {{ checkpoints?: object }} */ (operation);
  return { ...others, checkpoints: { ...Object.fromEntries(steps.map((step) => [step, ref])), ...checkpoints } };
}

/**
 * A folder of that name takes precedence; a path such as ./a/b is never a repository.
 * @param {string | undefined} text
 * @param {string} from
 * @returns {{ path: string | null, origin: Origin | null }}
 */
function placeOf(text, from) {
  if (text === undefined) {
    return { path: null, origin: null };
  }
  const path = resolve(from, text);
  const origin = existsSync(path) ? null : parseOrigin(text);
  return { path: origin ? null : path, origin };
}

/**
 * A repository `org/name[@revision]` or a web address; null for everything else.
 * @param {string} text
 * @returns {Origin | null}
 */
export function parseOrigin(text) {
  if (/^https?:\/\//i.test(text)) {
    return { kind: 'url', url: text };
  }
  const parts = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?$/.exec(text);
  return parts && { kind: 'hub', repo: parts[1], revision: parts[2] ?? null };
}

/**
 * Reads an operation's file. The page validates it, with the same messages as everywhere.
 * @param {string} path
 * @param {(sentence: string) => void} say
 * @returns {Promise<unknown>}
 */
export async function readOperation(path, say) {
  const bytes = await readFile(path).catch(() => {
    throw new Failure('invalid_operation', `The operation's file ${path} cannot be read.`);
  });
  const { text, encoding } = decodeText(bytes, path);
  if (encoding !== 'UTF-8') {
    say(`${path} was read as ${encoding}, as its byte order mark says.`);
  }
  try {
    return parseJson(text);
  } catch (error) {
    throw new Failure('invalid_operation', `${path} is not JSON: ${/** @type {Error} */ (error).message}.`);
  }
}

/**
 * The operation with the files that it names, as data URLs.
 * @param {unknown} operation
 * @param {readonly NamedFile[]} named
 * @param {string} folder that relative paths start at
 * @returns {Promise<unknown>}
 */
export async function withFiles(operation, named, folder) {
  /** @typedef {{ [key: string | number]: unknown }} Values */
  const whole = /** @type {Values} */ (structuredClone(operation));
  for (const { path, medium } of named) {
    const keys = ['parameters', ...path];
    const last = keys.pop() ?? '';
    const holder = keys.reduce((value, key) => /** @type {Values} */ (value[key]), whole);
    const name = path.filter((key) => typeof key === 'string').at(-1) ?? '';
    holder[last] = await dataUrl(name, medium, resolve(folder, String(holder[last])));
  }
  return whole;
}

/**
 * @param {string} name
 * @param {string} medium
 * @param {string} path
 */
async function dataUrl(name, medium, path) {
  const { what, kinds, types } = FILES[medium];
  const type = types[extname(path).toLowerCase()];
  if (!type) {
    throw new Failure('invalid_operation', `${name} must be a ${kinds} file; it is ${path}.`);
  }
  const bytes = await readFile(path).catch(() => {
    throw new Failure('invalid_operation', `The ${what} ${path}, which ${name} names, cannot be read.`);
  });
  return `data:${type};base64,${bytes.toString('base64')}`;
}

/**
 * @param {string} path
 * @throws {Failure} unless it is a folder or a weight file that can be opened
 */
export async function checkCheckpoint(path) {
  const stats = await stat(path).catch(() => null);
  if (stats?.isFile() && !isWeightFile(path)) {
    throw new Failure(
      'checkpoint_unsupported',
      /\.(bin|ckpt|pt|pth)$/i.test(path)
        ? `${path} is a pickle, which can run code; get the .safetensors version of it.`
        : `${path} is no checkpoint; name a folder, or a .safetensors file.`,
    );
  }
  if (!stats) {
    throw new Failure(
      'checkpoint_incomplete',
      `The checkpoint folder ${path} does not exist; name a folder, a .safetensors file, or a repository as ORG/NAME.`,
    );
  }
}

/**
 * @param {string} path
 * @throws {Failure} unless it is a folder
 */
export async function checkLanguageFolder(path) {
  const stats = await stat(path).catch(() => null);
  if (!stats?.isDirectory()) {
    throw new Failure(
      'checkpoint_incomplete',
      `The folder ${path} of a language model does not exist; name a folder, or a repository as ORG/NAME.`,
    );
  }
}

/** @param {string} path */
export function isWeightFile(path) {
  return extname(path).toLowerCase() === '.safetensors';
}

/**
 * @param {unknown} value
 * @returns {value is Record<string, unknown>}
 */
export function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
