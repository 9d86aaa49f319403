/** Finds the bytes of a checkpoint when a job's turn comes: here, in another tab, or in a folder opened before. */
import * as v from 'valibot';
import {
  BUILTIN_CHECKPOINTS,
  DEFAULT_CHECKPOINT,
  builtinOf,
  goneSentence,
  isBuiltin,
} from '../core/builtin_checkpoints.ts';
import { StudioError } from '../core/errors.ts';
import type { CheckpointSource } from '../weights/checkpoint_source.ts';
import { deferred } from './deferred.ts';
import type { Deferred } from './deferred.ts';
import { folderSource } from './folder_source.ts';
import type { FolderFile } from './folder_source.ts';
import type { Answer } from './queue.ts';

const CHANNEL = 'darkroom:sources';

const STORED = /^(hub|url|import):./;
const FOLDER = /^folder:(.+)$/;

/** How long other tabs may take to answer, in milliseconds; later answers still count. */
const ANSWER_WITHIN = 1000;

/** Messages between tabs. Files can be sent, and stay readable after the sending tab closes. */
const messageSchema = v.variant('type', [
  v.object({ type: v.literal('wanted'), ref: v.string() }),
  v.object({ type: v.literal('opened'), ref: v.string() }),
  v.object({
    type: v.literal('given'),
    ref: v.string(),
    source: v.object({
      kind: v.literal('folder'),
      name: v.string(),
      files: v.array(v.object({ path: v.string(), file: v.instance(File) })),
    }),
  }),
]);
type Message = v.InferOutput<typeof messageSchema>;

export class Sources {
  /** Finds the files of a folder opened in an earlier visit that may be read without asking; null if there is none. */
  remembered: (name: string) => Promise<FolderFile[] | null> = () => Promise.resolve(null);
  /** Called when a missing checkpoint has become available. */
  onFound: (ref: string) => void = () => undefined;
  readonly #channel: BroadcastChannel | null;
  readonly #builtin: string | undefined;
  readonly #open = new Map<string, CheckpointSource>();
  readonly #asked = new Map<string, Deferred<void>>();

  /**
   * @param channel null if there are no other tabs
   * @param builtin the folder of the checkpoints that come along, an address; by default beside the page
   */
  constructor(channel: BroadcastChannel | null = new BroadcastChannel(CHANNEL), builtin?: string) {
    this.#channel = channel;
    this.#builtin = builtin;
    channel?.addEventListener('message', ({ data }) => this.#onMessage(data));
  }

  /** Call when the checkpoint has been opened in this tab. */
  add(ref: string, source: CheckpointSource): void {
    this.#open.set(ref, source);
    this.#post({ type: 'opened', ref });
    this.onFound(ref);
  }

  /** @throws StudioError `checkpoint_incomplete` if it is not open in this tab */
  get(ref: string): CheckpointSource {
    const source = this.#known(ref);
    if (source) {
      return source;
    }
    throw new StudioError(
      'checkpoint_incomplete',
      isBuiltin(ref)
        ? goneSentence(ref)
        : `The checkpoint "${ref}" is not open; open its folder first, or leave "checkpoint" out.`,
    );
  }

  /** Finds it, or says in one sentence what is missing, or that it is gone for good and what can replace it. */
  async resolve(ref: string): Promise<Answer<CheckpointSource>> {
    const folder = FOLDER.exec(ref)?.[1];
    if (!this.#known(ref) && folder !== undefined) {
      await this.#ask(ref);
      if (!this.#known(ref)) {
        await this.#remember(ref, folder);
      }
    }
    const payload = this.#known(ref);
    if (payload) {
      return { type: 'found', payload };
    }
    if (isBuiltin(ref)) {
      return {
        type: 'gone',
        sentence: goneSentence(ref),
        instead: { ref: DEFAULT_CHECKPOINT, name: BUILTIN_CHECKPOINTS[0].name },
      };
    }
    return {
      type: 'obstacle',
      sentence: `The folder "${folder ?? ref}" is not open; open it again, then this goes on.`,
    };
  }

  #known(ref: string): CheckpointSource | undefined {
    const builtin = builtinOf(ref);
    if (builtin) {
      const base = this.#builtin;
      return { kind: 'builtin', name: builtin.id, ...(base === undefined ? {} : { base }) };
    }
    return STORED.test(ref) ? { kind: 'stored', ref } : this.#open.get(ref);
  }

  async #ask(ref: string): Promise<void> {
    if (this.#channel) {
      const answer = this.#asked.get(ref) ?? deferred<void>();
      this.#asked.set(ref, answer);
      const patience = setTimeout(answer.resolve, ANSWER_WITHIN);
      this.#post({ type: 'wanted', ref });
      await answer.promise;
      clearTimeout(patience);
      this.#asked.delete(ref);
    }
  }

  async #remember(ref: string, name: string): Promise<void> {
    try {
      const files = await this.remembered(name);
      const source = files && folderSource(files);
      if (source?.kind === 'folder' && source.name === name) {
        this.#open.set(ref, source);
      }
    } catch {
      // Moved, or its disk was removed: it must be opened again.
    }
  }

  #onMessage(data: unknown): void {
    const result = v.safeParse(messageSchema, data);
    if (!result.success) {
      return;
    }
    const message = result.output;
    if (message.type === 'wanted') {
      const source = this.#open.get(message.ref);
      if (source?.kind === 'folder') {
        this.#post({ type: 'given', ref: message.ref, source });
      }
      return;
    }
    // Every tab hears the answers, and may need them later.
    if (message.type === 'given' && !this.#open.has(message.ref)) {
      this.#open.set(message.ref, message.source);
    }
    this.#asked.get(message.ref)?.resolve();
    this.onFound(message.ref);
  }

  #post(message: Message): void {
    this.#channel?.postMessage(message);
  }
}
