import * as v from 'valibot';
import type { Localized } from '../../core/field.ts';
import { Entry } from '../studio/entry.svelte.ts';
import { ofLanguage, said, t } from '../messages/messages.svelte.ts';
import type { FieldDescription } from './description.ts';
import { randomSeed } from './seed.ts';

/** A given picture and its name. */
export interface GivenFile {
  blob: Blob;
  name: string;
}

/** Where a field's text is kept. */
export interface FieldStore {
  read(key: string): string | null;
  write(key: string, text: string | null): void;
  keepFiles(key: string, files: GivenFile[]): void;
}

/** What a control shows and edits: a schema's field, or an entry of the pictures' form. */
export interface ControlField {
  label: string;
  help?: string;
  entry: Entry;
  placeholder?: string;
  /** Present if a range makes sense. */
  slider?: { min: number; max: number; step: number } | null;
}

/** The controls that take files. */
const FILE_CONTROLS: readonly string[] = ['picture', 'mask', 'pictures', 'sound'];

export function takesFiles({ control }: FieldDescription): boolean {
  return FILE_CONTROLS.includes(control);
}

/** One field of a form built from a schema: the typed text and its value. */
export class Field {
  readonly description: FieldDescription;
  readonly key: string;
  readonly entry: Entry;
  /** The pictures of a picture field or a list, or the sound of a sound field. */
  files = $state.raw<GivenFile[]>([]);
  /** The other side of a size. */
  readonly companion: Field | null;
  readonly #store: FieldStore;
  readonly #initial: unknown;

  /**
   * @param key unique within the form
   * @param initial the config's value, else the schema's
   */
  constructor(
    key: string,
    description: FieldDescription,
    initial: unknown,
    store: FieldStore,
    companion: Field | null = null,
  ) {
    this.key = key;
    this.description = description;
    this.companion = companion;
    this.#store = store;
    this.#initial = initial;
    this.entry = new Entry(() => this.label, {
      read: () => store.read(key),
      write: (text) => store.write(key, text),
      suggestion: () => (initial === undefined ? '' : textOf(initial)),
      check: () => this.#problem(),
    });
  }

  get label(): string {
    return ofLanguage(this.description.label);
  }

  get help(): string | undefined {
    return this.description.help ? ofLanguage(this.description.help) : undefined;
  }

  get placeholder(): string | undefined {
    return this.description.placeholder ? ofLanguage(this.description.placeholder) : undefined;
  }

  get slider(): FieldDescription['slider'] {
    return this.description.slider;
  }

  get isWhole(): boolean {
    return this.description.isWhole;
  }

  /** The choices, starting with none if it is optional. */
  get choices(): { id: string; label: string }[] {
    const { choices, isRequired } = this.description;
    const all = choices.map(({ value, label }) => ({ id: String(value), label: ofLanguage(label) }));
    return isRequired || this.#initial !== undefined ? all : [{ id: '', label: t('As it comes') }, ...all];
  }

  /** For a seed: whether the visible one is used again. */
  get isKept(): boolean {
    return this.#store.read(`${this.key}:kept`) !== null;
  }

  set isKept(isKept: boolean) {
    this.#store.write(`${this.key}:kept`, isKept ? 'yes' : null);
  }

  /** The operation's value; undefined if nobody chose one, leaving it to the config or the schema. */
  get value(): unknown {
    const { control, choices } = this.description;
    if (this.files.length === 0 && this.#initial !== undefined && this.#store.read(this.key) === null) {
      return undefined;
    }
    const { text } = this.entry;
    switch (control) {
      case 'picture':
      case 'mask':
      case 'sound':
        return this.files[0]?.blob;
      case 'pictures':
        return this.files.length > 0 ? this.files.map(({ blob }) => blob) : undefined;
      case 'switch':
        return text === '' ? undefined : text === 'true';
      case 'choice':
        return choices.find(({ value }) => String(value) === text)?.value;
      case 'number':
      case 'size':
        return text.trim() === '' ? undefined : this.entry.value;
      case 'seed':
        return text.trim() === '' ? undefined : text.trim();
      case 'values':
      case 'workflow':
        return text.trim() === '' ? undefined : parsed(text);
      default:
        // An empty text is a value if one is required.
        return text === '' && !this.description.isRequired ? undefined : text;
    }
  }

  /** Sets its pictures, which survive a reload. */
  give(files: GivenFile[]): void {
    this.files = files;
    this.#store.keepFiles(this.key, files);
  }

  /** The value for a new operation; a seed that is not fixed is drawn and shown. */
  settle(): unknown {
    if (this.description.control === 'seed' && !this.isKept) {
      this.entry.text = randomSeed();
    }
    return this.value;
  }

  /** Takes over an earlier run's value. */
  take(value: unknown): void {
    this.entry.text = textOf(value);
    this.entry.ask();
    if (this.description.control === 'seed') {
      this.isKept = true;
    }
  }

  ask(): boolean {
    return [this.entry.ask(), this.companion?.ask() ?? true].every(Boolean);
  }

  /** The schema's message, with the label instead of the parameter's name. */
  #problem(): string | null {
    const { schema, name, isRequired, control } = this.description;
    const { value } = this;
    if (value === undefined) {
      return isRequired && this.#initial === undefined ? t('{field} is missing.', { field: this.label }) : null;
    }
    if (control === 'seed' && !this.isKept) {
      return null;
    }
    const result = v.safeParse(schema, value, { abortEarly: true });
    if (result.success) {
      return null;
    }
    const [{ message }] = result.issues;
    const own = said(message);
    return message.endsWith('.') ? own.replace(new RegExp(`^${name}\\b`), this.label) : `${this.label}: ${own}.`;
  }
}

function textOf(value: unknown): string {
  if (typeof value === 'string') {
    return value;
  }
  return isLocalized(value) ? ofLanguage(value) : JSON.stringify(value);
}

function isLocalized(value: unknown): value is Localized {
  return typeof value === 'object' && value !== null && 'en' in value && 'de' in value;
}

/** Invalid JSON stays text, for the schema to refuse. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
