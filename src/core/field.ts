/**
 * What a chunk says of a parameter for the form that is made of its schema, in `v.metadata({ … } satisfies FieldMetadata)`. All of it is optional:
 * the schema alone gives a usable form.
 */
export interface FieldMetadata {
  /** The file of `src/app/fields` that shows it: `long_text` is `LongTextField.svelte`. Follows from the schema where nothing is said. */
  control?: string;
  label?: Localized;
  /** Behind the "?" beside the label. */
  help?: Localized;
  /** Stands in the empty field. */
  placeholder?: Localized;
  /**
   * `main` stands beside Generate, `more` in the settings below; what has to be filled in is `main` where nothing is said. `none` is in no form:
   * other parts of the page, or other doors, say it.
   */
  group?: 'main' | 'more' | 'none';
  /** What choices are called, by value. */
  choices?: Readonly<Record<string, Localized>>;
  /** Where a slider is of use: narrower than what is allowed. */
  slider?: { min: number; max: number; step: number };
}

export interface Localized {
  en: string;
  de: string;
}
