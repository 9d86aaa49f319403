/** What the form uses beside the checkpoint with pictures of its own: each with how much it counts. Loaded when somebody uses one. */
import * as v from 'valibot';
import { ADDITIONS, type CheckedAddition } from '../../core/additions.ts';
import { StudioError } from '../../core/errors.ts';
import { loraName } from '../../core/loras.ts';
import type { CheckpointSummary } from '../../core/model.ts';
import * as parameter from '../../core/parameters.ts';
import { AS_STORED } from '../../formats/picture.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { Library } from '../library/library.svelte.ts';
import { said, t } from '../messages/messages.svelte.ts';
import { Entry } from './entry.svelte.ts';

/** A stored addition as the form lists it. */
export interface AdditionChoice {
  ref: string;
  name: string;
  /** Why it cannot be used, as a sentence; null when it can. */
  problem: string | null;
}

export interface GivenPicture {
  blob: Blob;
  name: string;
  url: string;
}

/** One use of an addition. */
export abstract class AdditionUse {
  /** A ref of the library; empty = none is chosen yet. */
  ref = $state('');
  pictures = $state.raw<GivenPicture[]>([]);
  /** What is wrong beside the numbers, once it is time to speak of it. */
  problem = $state<string | null>(null);
  readonly weight = numberEntry(() => t('Weight'), '1', parameter.addedWeight());
  /** How many pictures it takes. */
  readonly most: number;

  constructor(most: number) {
    this.most = most;
  }

  /** One more picture; beyond what it takes, the last one makes room. @throws StudioError `image_unreadable` */
  async put(blob: Blob, name: string): Promise<void> {
    try {
      (await createImageBitmap(blob, AS_STORED)).close();
    } catch (cause) {
      throw new StudioError(
        'image_unreadable',
        `"${name}" is not a picture that this browser can read; choose a PNG, JPEG or WebP file.`,
        { cause },
      );
    }
    this.pictures.slice(this.most - 1).forEach((picture) => {
      this.take(picture);
    });
    this.pictures = [...this.pictures, { blob, name, url: URL.createObjectURL(blob) }];
    this.problem = null;
  }

  /** Takes a picture away. */
  take(picture: GivenPicture): void {
    URL.revokeObjectURL(picture.url);
    this.pictures = this.pictures.filter((one) => one !== picture);
  }

  release(): void {
    this.pictures.forEach((picture) => {
      this.take(picture);
    });
  }

  /** Says from now on what is wrong. @param choice what is known of the chosen one */
  isValid(choice: AdditionChoice | undefined): boolean {
    const areNumbers = this.numbers.map((one) => one.ask()).every(Boolean);
    this.problem = this.problemOf(choice, areNumbers);
    return areNumbers && this.problem === null;
  }

  protected get numbers(): readonly Entry[] {
    return [this.weight];
  }

  /** @param areNumbers whether its numbers are right */
  protected abstract problemOf(choice: AdditionChoice | undefined, areNumbers: boolean): string | null;
}

/** What is stored of one kind, and which of it fits the checkpoint that is open. */
export abstract class AdditionChoices {
  readonly kind: CheckedAddition;
  protected readonly library: Library;
  readonly #client: JobClient;
  /** What was found out for {@link #checked}, by ref. */
  #problems = $state.raw<Record<string, string | null>>({});
  #checked = '';

  constructor(kind: CheckedAddition, client: JobClient, library: Library) {
    this.kind = kind;
    this.#client = client;
    this.library = library;
  }

  /** All that are stored here, then those that are chosen and no longer here. */
  readonly choices = $derived.by((): AdditionChoice[] => {
    const stored = this.#stored.map(({ ref, name }) => ({ ref, name, problem: this.#problems[ref] ?? null }));
    const gone = this.chosen.filter(
      (ref, at, all) => ref !== '' && all.indexOf(ref) === at && !stored.some((one) => one.ref === ref),
    );
    return [
      ...stored.sort((a, b) => a.name.localeCompare(b.name)),
      ...gone.map((ref) => ({
        ref,
        name: nameOf(ref),
        problem: `The ${ADDITIONS[this.kind]} ${nameOf(ref)} is not stored here any more; add it again, or choose another one.`,
      })),
    ];
  });

  /** Refs that are in the form. */
  protected abstract get chosen(): string[];

  get #stored() {
    return this.library.additions.filter(({ ref, state }) => ref.startsWith(`${this.kind}:`) && state === 'complete');
  }

  /** Finds out which fit the checkpoint that is open, unless that is known. */
  async check(checkpoint: CheckpointSummary | null): Promise<void> {
    const asked = JSON.stringify([checkpoint?.ref, checkpoint?.bytes, ...this.#stored.map(({ ref }) => ref)]);
    if (asked === this.#checked) {
      return;
    }
    this.#checked = asked;
    const isNeeded = checkpoint !== null && this.isTaken(checkpoint) && this.#stored.length > 0;
    // Where this fails, a job says it.
    const fits = isNeeded ? await this.#client.checkAdditions(checkpoint.ref, this.kind).catch(() => []) : [];
    if (this.#checked === asked) {
      this.#problems = Object.fromEntries(fits.map(({ ref, problem }) => [ref, problem]));
    }
  }

  /** Whether the checkpoint takes these at all. */
  abstract isTaken(checkpoint: CheckpointSummary): boolean;

  /** The ref of what an operation names, as it is where nothing of that name is stored. */
  protected refOf(named: string): string {
    return this.#stored.find(({ ref, name }) => ref === named || name === loraName(named))?.ref ?? named;
  }

  /** Takes a stored addition into use. */
  abstract takeStored(ref: string): void;

  /** What is wrong says so from now on. */
  abstract isValid(): boolean;

  /** What is chosen, as parameters; empty where nothing is. */
  abstract parameters(): Record<string, unknown>;

  /**
   * Takes over what an operation had, and nothing else.
   * @param read gives a recorded file
   */
  abstract restore(parameters: Record<string, unknown>, read: (file: string) => Promise<Blob>): Promise<void>;
}

export abstract class AdditionUses<Use extends AdditionUse> extends AdditionChoices {
  list = $state<Use[]>([]);

  protected get chosen(): string[] {
    return this.list.map(({ ref }) => ref);
  }

  /** What is missing beside them, as a sentence; null where nothing is. */
  get lack(): string | null {
    return null;
  }

  protected abstract make(): Use;

  /** One more, with an addition that fits. */
  add(ref = this.choices.find(({ problem }) => problem === null)?.ref ?? ''): Use {
    this.list.push(this.make());
    const use = this.list[this.list.length - 1];
    use.ref = ref;
    return use;
  }

  remove(use: Use): void {
    use.release();
    this.list = this.list.filter((one) => one !== use);
  }

  takeStored(ref: string): void {
    const waiting = this.list.find((one) => one.ref === '');
    if (waiting) {
      waiting.ref = ref;
    } else {
      this.add(ref);
    }
  }

  isValid(): boolean {
    return this.list.map((use) => use.isValid(this.choices.find(({ ref }) => ref === use.ref))).every(Boolean);
  }

  protected clear(): void {
    this.list.forEach((use) => {
      use.release();
    });
    this.list = [];
  }

  /** One more, by the ref or the name that an operation has. */
  protected addNamed(named: string): Use {
    return this.add(this.refOf(named));
  }
}

/** @param picture a recorded file or the picture itself */
export async function putGiven(
  use: AdditionUse,
  picture: unknown,
  read: (file: string) => Promise<Blob>,
  called: string,
): Promise<void> {
  if (typeof picture === 'string') {
    await use.put(await read(picture), picture);
  } else if (picture instanceof Blob) {
    await use.put(picture, called);
  }
}

function nameOf(ref: string): string {
  return loraName(ref.replace(/^\w+:\w+:/, ''));
}

export function numberEntry(label: () => string, suggestion: string, schema: v.GenericSchema<number>): Entry {
  let text = $state<string | null>(null);
  return new Entry(label, {
    read: () => text,
    write: (value) => (text = value),
    suggestion: () => suggestion,
    check: (one) => {
      const result = v.safeParse(schema, one.value, { abortEarly: true });
      return result.success ? null : said(result.issues[0].message).replace(/^\w+/, one.label);
    },
  });
}
