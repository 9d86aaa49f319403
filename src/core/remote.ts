/** Servers that a person entered: what pages, workers and engines say to one another about them. */
import { StudioError } from './errors.ts';
import type { Localized } from './field.ts';

/** A server as it was entered. Its key, where it has one, is a secret of its own (see {@link secretOf}) and in none of these. */
export interface RemoteServer {
  /** Chosen once, so that a key stays with it when it is renamed or moved. */
  id: string;
  /** A file of `src/engines`. */
  engine: string;
  /** An origin with an optional path, without a slash at its end: `http://127.0.0.1:8188`. */
  address: string;
  /** Values for the engine's settings, such as the name of a model. */
  settings: Readonly<Record<string, string>>;
  hasKey: boolean;
}

/** How servers of an engine are entered. */
export interface EngineFacts {
  id: string;
  label: Localized;
  /** Where one usually is. */
  address: string;
  /** What is sent to it, as a whole sentence. */
  leaves: string;
  key: 'none' | 'optional' | 'required';
  /** Further values that it takes, by id. */
  settings: readonly { id: string; label: Localized; usual: string }[];
}

/** What asking a server came to. */
export interface Probe {
  isUp: boolean;
  /** What is there, or what is wrong and what to do, as a whole sentence. */
  sentence: string;
  /** What to copy into a command line, where that helps. */
  flag?: string;
  /** What it can make with, where it tells: names of models. */
  models?: readonly string[];
}

/** A result that another machine made: recorded as it came, with what is known of it there. */
export class MadeFile {
  readonly file: Blob;
  readonly metadata: Readonly<Record<string, unknown>>;

  constructor(file: Blob, metadata: Readonly<Record<string, unknown>>) {
    this.file = file;
    this.metadata = metadata;
  }
}

/** The name of the secret that is a server's key. */
export function secretOf(server: Pick<RemoteServer, 'id'>): string {
  return `server:${server.id}`;
}

const ADDRESS = /^(https?:\/\/(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::[0-9]{1,5})?)((?:\/[A-Za-z0-9._~-]+)*)\/*$/;

/**
 * An address as people type it, made whole: without a scheme it is `http://` at home and `https://` elsewhere.
 * @throws StudioError `invalid_operation` for what is no address that a browser's policy can name; IPv6 literals are none
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
  // As browsers write an origin.
  return `${origin.replace(/^(http:.*):80$|^(https:.*):443$/, '$1$2')}${path}`;
}

/** Whether what is sent to this address stays on this computer. */
export function isLoopback(address: string): boolean {
  return /^https?:\/\/(?:(?:[a-z0-9.-]+\.)?localhost|127\.[0-9.]+)(?:[:/]|$)/.test(address);
}
