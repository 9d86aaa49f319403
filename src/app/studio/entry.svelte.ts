/**
 * A text field that follows a suggestion until somebody types something or brings it back, be it the same: what a person has
 * chosen stays, whatever is suggested later. It holds text, not a number, so that it stays as it was typed, right or wrong.
 */
export class Entry {
  readonly #label: () => string;
  readonly #source: EntrySource;
  #asked = $state(false);

  constructor(label: () => string, source: EntrySource) {
    this.#label = label;
    this.#source = source;
  }

  /** In the person's language. */
  get label(): string {
    return this.#label();
  }

  get suggestion(): string {
    return this.#source.suggestion();
  }

  /** True when somebody chose this value, and another one is suggested. */
  get differs(): boolean {
    return this.text !== this.suggestion;
  }

  get text(): string {
    return this.#source.read() ?? this.suggestion;
  }

  set text(text: string) {
    this.#source.write(text);
  }

  get value(): number {
    return this.text.trim() === '' ? Number.NaN : Number(this.text);
  }

  /** One sentence about what is wrong, or null. */
  get problem(): string | null {
    return this.#source.check(this);
  }

  /** The problem, once it is time to speak of it: after the field was left or Generate was pressed. */
  get error(): string | null {
    return this.#asked ? this.problem : null;
  }

  ask(): boolean {
    this.#asked = this.problem !== null;
    return !this.#asked;
  }

  /** Asks when the field is left. The click that left it lands first: the sentence moves what lies below. */
  leave(): void {
    setTimeout(() => this.ask(), 200);
  }

  follow(): void {
    this.#source.write(null);
    this.#asked = false;
  }
}

interface EntrySource {
  read(): string | null;
  write(text: string | null): void;
  suggestion(): string;
  check(entry: Entry): string | null;
}
