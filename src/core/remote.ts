/** Servers that a person entered, as the page, workers and engines describe them to one another. */
import { StudioError } from './errors.ts';
import type { Localized } from './field.ts';

/** A server as it was entered. Its key, if it has one, is kept apart as a secret (see {@link secretOf}). */
export interface RemoteServer {
  /** Fixed, so a key stays with the server when it is renamed or moved. */
  id: string;
  /** A file of `src/engines`. */
  engine: string;
  /** An origin with an optional path and no trailing slash: `http://127.0.0.1:8188`. */
  address: string;
  /** Where requests for it go instead: an address of the page's own origin that passes them on. Only the command line has one. */
  through?: string | undefined;
  /** Values for the engine's settings, such as a model's name. */
  settings: Readonly<Record<string, string>>;
  hasKey: boolean;
}

/** How an engine's servers are entered. */
export interface EngineFacts {
  id: string;
  label: Localized;
  /** The usual address. */
  address: string;
  /** A whole sentence on what is sent to it. */
  leaves: string;
  key: 'none' | 'optional' | 'required';
  /** Further settings, by id. One that `isNeeded` defaults to the first model the server lists. */
  settings: readonly { id: string; label: Localized; usual: string; isNeeded?: boolean }[];
  /** Whether its servers can run steps that need a language model; see {@link remoteModel}. */
  writes?: boolean;
  /** Where signing in yields a key (PKCE): a path on the server's origin. */
  signIn?: string;
  /** How the environment variables for address and key begin, if not with the engine's id: `A1111` for `A1111_URL`. */
  variables?: string;
}

/** What signing in at a service returns. */
export interface SignInProof {
  code: string;
  /** The verifier whose hash was sent. */
  verifier: string;
}

/** The result of probing a server. */
export interface Probe {
  isUp: boolean;
  /** A whole sentence: what is there, or what is wrong and what to do. */
  sentence: string;
  /** A command-line flag to copy, if that helps. */
  flag?: string;
  /** Names of its models, if it lists them. */
  models?: readonly string[];
}

/** What a request used, according to the service; absent if it does not say. */
export interface Usage {
  /** Tokens. */
  input?: number;
  output?: number;
  /** In the service's currency, nearly always US dollars. */
  cost?: number;
}

/** A language model on a server that a person entered. */
export interface RemoteModel {
  engine: string;
  address: string;
  /** The server's name for it. */
  model: string;
}

/** How operations name one in `checkpoints`: `openai_chat@http://127.0.0.1:11434/v1#qwen3:8b`. */
export function remoteModel({ engine, address, model }: RemoteModel): string {
  return `${engine}@${address}#${model}`;
}

/** Null for the ref of anything else. */
export function readRemoteModel(ref: string): RemoteModel | null {
  const [, engine, address, model] = /^([a-z][a-z0-9_]*)@(https?:\/\/[^#]+)#(.+)$/.exec(ref) ?? [];
  return engine === undefined ? null : { engine, address, model };
}

/** Saved by a step between sending its request and receiving the answer, so that nothing is automatically requested, and charged, twice. */
export const SENT = { isSent: true };

/** Whether an earlier attempt saved {@link SENT}. */
export function wasSent(kept: unknown): boolean {
  return typeof kept === 'object' && kept !== null && 'isSent' in kept && kept.isSent === true;
}

export function answerLost(): StudioError {
  return new StudioError(
    'origin_unavailable',
    'The server had been asked when this was broken off, and may have charged for it, so it is not asked again by itself; start it once more to ask again.',
    { retry: 'same' },
  );
}

/** A result made on another machine: recorded unchanged, with what that machine says about it. */
export class MadeFile {
  readonly file: Blob;
  readonly metadata: Readonly<Record<string, unknown>>;

  constructor(file: Blob, metadata: Readonly<Record<string, unknown>>) {
    this.file = file;
    this.metadata = metadata;
  }
}

/** The name of the secret holding a server's key. */
export function secretOf(server: Pick<RemoteServer, 'id'>): string {
  return `server:${server.id}`;
}

const ADDRESS = /^(https?:\/\/(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::[0-9]{1,5})?)((?:\/[A-Za-z0-9._~-]+)*)\/*$/;

/**
 * Completes an address as people type it: without a scheme it becomes `http://` on the local network and `https://` elsewhere.
 * @throws StudioError `invalid_operation` for an address that a Content-Security-Policy cannot name, such as an IPv6 literal
 */
export function readAddress(typed: string): string {
  const text = typed.trim();
  const isHome = /^(localhost|127\.|10\.|192\.168\.|[^./:]+(:|\/|$)|[^/:]+\.local\b)/i.test(text);
  const whole = /^[a-z]+:\/\//i.test(text) ? text : `${isHome ? 'http' : 'https'}://${text}`;
  const [, origin, path] = ADDRESS.exec(whole.replace(/^[a-z]+:\/\/[^/]*/i, (start) => start.toLowerCase())) ?? [];
  if (origin === undefined) {
    throw new StudioError(
      'invalid_operation',
      `"${text}" is not an address such as http://127.0.0.1:8188; enter host and port, with a name in place of an IPv6 address.`,
    );
  }
  // The way browsers write an origin.
  return `${origin.replace(/^(http:.*):80$|^(https:.*):443$/, '$1$2')}${path}`;
}

/** Host and port, by which people know a server. */
export function hostOf(address: string): string {
  return address.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
}

/** Whether data sent to this address stays on this computer. */
export function isLoopback(address: string): boolean {
  return /^https?:\/\/(?:(?:[a-z0-9.-]+\.)?localhost|127\.[0-9.]+)(?:[:/]|$)/.test(address);
}
