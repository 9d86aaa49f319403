/**
 * Hints for the form built from a chunk's schema, given in `v.metadata({ … } satisfies FieldMetadata)`. All are optional: the schema alone
 * makes a usable form.
 */
export interface FieldMetadata {
  /** The file of `src/app/fields` that shows it: `long_text` is `LongTextField.svelte`. By default it follows from the schema. */
  control?: string;
  /** The entry of `src/app/fields/shared_parameters.json` with its label and help, which only forms load; by default that of its name. */
  words?: string;
  label?: Localized;
  /** Shown behind the "?" beside the label. */
  help?: Localized;
  /** Placeholder of the empty field. */
  placeholder?: Localized;
  /**
   * `main` is beside Generate, `more` in the settings below. Required fields are `main` by default. `none` is in no form: it is set
   * elsewhere on the page, or through other doors.
   */
  group?: 'main' | 'more' | 'none';
  /** What a checkpoint has to be able to, as its summary says, for the field to be of use. */
  takenAs?: 'firstFrame' | 'lastFrame';
  /** Of a mask: the field with the picture that it is painted on. */
  over?: string;
  /** The field without which this one counts for nothing, so that it is hidden until that one is filled. */
  with?: string;
  /** What that field has to say for it; absent = anything. */
  withValue?: string;
  /** Labels of the choices, by value. */
  choices?: Readonly<Record<string, Localized>>;
  /** The slider's range, narrower than what is allowed. */
  slider?: { min: number; max: number; step: number };
}

export interface Localized {
  en: string;
  de: string;
}
