/** What a form shows for a parameter, from its schema: `v.metadata`, `v.title` and `v.description` if present, else its type. */
import * as v from 'valibot';
import type { FieldMetadata, Localized } from '../../core/field.ts';
import shared from './shared_parameters.json';

export interface FieldDescription {
  name: string;
  schema: v.GenericSchema;
  /** Which file of this folder shows it: `long_text` is `LongTextField.svelte`. */
  control: string;
  label: Localized;
  help: Localized | null;
  placeholder: Localized | null;
  group: 'main' | 'more' | 'none';
  /** See `FieldMetadata.takenAs`; null where every checkpoint takes it. */
  takenAs: 'firstFrame' | 'lastFrame' | null;
  /** See `FieldMetadata.with`. */
  with: string | null;
  withValue: string | null;
  /** See `FieldMetadata.over`. */
  over: string | null;
  /** The choices and their labels. */
  choices: { value: unknown; label: Localized }[];
  slider: { min: number; max: number; step: number } | null;
  isWhole: boolean;
  /** Whether it needs a value, other than its default. */
  isRequired: boolean;
  /** The schema's default; undefined if it has none, or a random one. */
  initial: unknown;
}

/** The parts of a valibot schema read here. */
interface Inside {
  type: string;
  wrapped?: Inside;
  default?: unknown;
  options?: readonly unknown[];
  literal?: unknown;
  item?: Inside;
  pipe?: readonly (Inside & { requirement?: unknown; metadata?: unknown })[];
}

const WRAPPERS: readonly string[] = [
  'optional',
  'exact_optional',
  'undefinedable',
  'nullable',
  'nullish',
  'non_optional',
];

/** A range with more steps than this is useless as a slider. */
const MOST_SLIDER_STEPS = 1000;

interface Known {
  label: Localized;
  help?: Localized;
}

/** Parameters shared by chunks, by their common names. */
const KNOWN: Readonly<Partial<Record<string, Known>>> = shared;

/** Texts longer than a line. */
const LONG = /(^|_)(prompt|text|instruction|lyrics|description)$/;

export function describeField(name: string, schema: v.GenericSchema): FieldDescription {
  const { core, isOptional, fallback, said } = unwrap(schema);
  const numbers = numberFacts(core);
  const choices = choicesOf(core, said);
  const known = KNOWN[said.words ?? name];
  const text = said.label ?? known?.label ?? same(said.title ?? readableName(name));
  const isRequired = !isOptional && fallback === undefined;
  return {
    name,
    schema,
    control: said.control ?? controlOf(name, schema, core, choices.length),
    label: text,
    help: said.help ?? (said.description === undefined ? (known?.help ?? null) : same(said.description)),
    placeholder: said.placeholder ?? null,
    group: said.group ?? (isRequired || LONG.test(name) ? 'main' : 'more'),
    takenAs: said.takenAs ?? null,
    with: said.with ?? null,
    withValue: said.withValue ?? null,
    over: said.over ?? null,
    choices,
    slider: said.slider ?? numbers.slider,
    isWhole: numbers.isWhole,
    isRequired,
    initial: typeof fallback === 'function' ? undefined : fallback,
  };
}

interface Said extends FieldMetadata {
  title?: string;
  description?: string;
}

/** The schema inside wrappers such as `optional`, and their metadata, outermost first. */
function unwrap(schema: v.GenericSchema): { core: Inside; isOptional: boolean; fallback: unknown; said: Said } {
  let core = schema as unknown as Inside;
  let isOptional = false;
  let fallback: unknown;
  let said = saidOf(core);
  while (WRAPPERS.includes(core.type) && core.wrapped) {
    isOptional ||= core.type !== 'non_optional';
    fallback ??= core.default;
    core = core.wrapped;
    said = { ...saidOf(core), ...said };
  }
  return { core, isOptional, fallback, said };
}

function saidOf(schema: Inside): Said {
  const generic = schema as unknown as v.GenericSchema;
  const [title, description] = [v.getTitle(generic), v.getDescription(generic)];
  return {
    ...v.getMetadata(generic),
    ...(title === undefined ? {} : { title }),
    ...(description === undefined ? {} : { description }),
  };
}

function controlOf(name: string, schema: v.GenericSchema, core: Inside, choices: number): string {
  if (choices > 0) {
    return 'choice';
  }
  switch (core.type) {
    case 'boolean':
      return 'switch';
    case 'number':
      return 'number';
    case 'string':
      return name === 'seed' ? 'seed' : LONG.test(name) ? 'long_text' : 'text';
    default:
      return takesWords(schema)
        ? 'long_text'
        : takesPicture(schema)
          ? 'picture'
          : takesPicture(schema, true)
            ? 'pictures'
            : v.is(schema, SOUND) && !v.is(schema, 'no sound')
              ? 'sound'
              : 'values';
  }
}

/** A union, say, of a text and of one for each language. */
function takesWords(schema: v.GenericSchema): boolean {
  return v.is(schema, 'some words');
}

const PICTURE = 'data:image/png;base64,';
const SOUND = 'data:audio/wav;base64,';

function takesPicture(schema: v.GenericSchema, isList = false): boolean {
  return v.is(schema, isList ? [PICTURE] : PICTURE) && !v.is(schema, isList ? ['no picture'] : 'no picture');
}

function choicesOf(core: Inside, said: Said): FieldDescription['choices'] {
  const values =
    core.type === 'picklist' || core.type === 'enum'
      ? (core.options ?? [])
      : core.type === 'union'
        ? (core.options ?? []).flatMap((one) => ((one as Inside).type === 'literal' ? [(one as Inside).literal] : []))
        : [];
  const isAll = core.type !== 'union' || values.length === core.options?.length;
  return isAll
    ? values.map((value) => ({ value, label: said.choices?.[String(value)] ?? same(readableName(String(value))) }))
    : [];
}

function numberFacts(core: Inside): Pick<FieldDescription, 'slider' | 'isWhole'> {
  if (core.type !== 'number') {
    return { slider: null, isWhole: false };
  }
  const required = (type: string) => core.pipe?.find((item) => item.type === type)?.requirement;
  const isWhole = core.pipe?.some(({ type }) => type === 'integer' || type === 'safe_integer') ?? false;
  const [min, max, multiple] = ['min_value', 'max_value', 'multiple_of'].map(required);
  if (typeof min !== 'number' || typeof max !== 'number') {
    return { slider: null, isWhole };
  }
  const step = typeof multiple === 'number' ? multiple : isWhole ? 1 : niceStep((max - min) / 100);
  return { slider: (max - min) / step <= MOST_SLIDER_STEPS ? { min, max, step } : null, isWhole };
}

/** The power of ten at or below it. */
function niceStep(step: number): number {
  return 10 ** Math.floor(Math.log10(step));
}

/** `guidance_scale` → "Guidance scale" */
export function readableName(name: string): string {
  const text = name.replaceAll('_', ' ').trim();
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function same(text: string): Localized {
  return { en: text, de: text };
}
