import * as v from 'valibot';
import type { Config } from '../../core/catalogue.ts';
import type { OperationInput } from '../../core/operation.ts';
import type { Course, Step } from '../../core/steps.ts';
import { asAsked, entriesOf, openEntries, valuesOf } from '../../core/steps.ts';
import { describeField, type FieldDescription } from '../fields/description.ts';
import { Field, takesFiles, type FieldStore, type GivenFile } from '../fields/field.svelte.ts';
import { language } from '../messages/messages.svelte.ts';
import { keep, readKept } from '../parts/kept.ts';
import { Persisted } from '../parts/persisted.svelte.ts';
import type { Way } from './making.svelte.ts';

const keptSchema = v.object({
  /** What was typed, by config and field. */
  values: v.fallback(v.record(v.string(), v.record(v.string(), v.string())), {}),
});

const filesSchema = v.array(v.object({ blob: v.instance(Blob), name: v.string() }));

/** Fields of a step other than the one that the config is about have a heading. */
export interface FieldGroup {
  /** Null for the pipeline's inputs and the main step. */
  step: Step | null;
  fields: Field[];
}

/** The form of a config, made of the schemas of its chunks; what was typed is kept over reloads. */
export class ConfigForm {
  readonly config: Config;
  readonly course: Course;
  /** All but the second sides of sizes, which stand with the first. */
  readonly groups: FieldGroup[];
  readonly #kept = new Persisted('darkroom.fields', keptSchema);

  constructor({ config, course }: Way) {
    this.config = config;
    this.course = asAsked(course, []);
    this.#kept.current.values[config.id] ??= {};
    const others = this.course.steps.filter((step) => step !== course.main);
    this.groups = [
      { step: null, fields: [...this.#inputs(), ...this.#fieldsOf(course.main)] },
      ...others.map((step) => ({ step, fields: this.#fieldsOf(step) })),
    ].filter(({ fields }) => fields.length > 0);
    for (const field of this.#all) {
      void this.#restoreFiles(field);
    }
  }

  /** Checks everything; what is wrong says so from now on. */
  isValid(): boolean {
    return this.#all.map((field) => field.ask()).every(Boolean);
  }

  /** The valid form as an operation, without the models that it runs on. Draws seeds, and shows them, unless they are kept. */
  operation(): OperationInput {
    return this.#operationOf((field) => field.settle());
  }

  /** The same as it stands, valid or not, without drawing anything. */
  get asked(): OperationInput {
    return this.#operationOf((field) => field.value);
  }

  #operationOf(valueOf: (field: Field) => unknown): OperationInput {
    const parameters: Record<string, unknown> = {};
    for (const field of this.#all.flatMap((one) => (one.companion ? [one, one.companion] : [one]))) {
      const value = valueOf(field);
      const [step, name] = field.key.split('.');
      if (value !== undefined && name === undefined) {
        parameters[step] = value;
      } else if (value !== undefined) {
        parameters[step] = { ...(parameters[step] as object | undefined), [name]: value };
      }
    }
    // Two languages of one text: the page's is sent, unless somebody chose.
    if (this.#all.some(({ key }) => key === 'language')) {
      parameters.language ??= language.current;
    }
    return { operation: this.course.operations[0], config: this.config.id, parameters };
  }

  /**
   * Takes over the parameters of an earlier run; what it does not say stays as it is.
   * @param open reads a file that was recorded, by its name; null = it is not there
   * @returns the controls of the fields whose files are not there
   */
  async restore(parameters: Record<string, unknown>, open: (file: string) => Promise<Blob | null>): Promise<string[]> {
    const missing: string[] = [];
    for (const field of this.#all.flatMap((one) => (one.companion ? [one, one.companion] : [one]))) {
      const [step, name] = field.key.split('.');
      const value =
        name === undefined ? parameters[step] : (parameters[step] as Record<string, unknown> | undefined)?.[name];
      const isFile = takesFiles(field.description);
      if (value !== undefined && !isFile) {
        field.take(value);
      } else if (isFile) {
        const given = [value].flat().filter((one) => typeof one === 'string' || one instanceof Blob);
        const files = await Promise.all(
          given.map(async (one) =>
            one instanceof Blob ? { blob: one, name: field.label } : { blob: await open(one), name: one },
          ),
        );
        const found = files.flatMap(({ blob, name }) => (blob ? [{ blob, name }] : []));
        field.give(found);
        if (found.length < files.length) {
          missing.push(field.description.control);
        }
      }
    }
    return missing;
  }

  /** The first that takes a picture; null where none does. */
  get picture(): Field | null {
    return this.#taking('picture');
  }

  /** The first that takes a sound; null where none does. */
  get sound(): Field | null {
    return this.#taking('sound');
  }

  #taking(control: string): Field | null {
    return this.#all.find(({ description }) => description.control === control) ?? null;
  }

  /** That of a parameter. */
  fieldNamed(name: string): Field | null {
    return this.#all.find(({ description }) => description.name === name) ?? null;
  }

  get #all(): Field[] {
    return this.groups.flatMap(({ fields }) => fields);
  }

  /** What steps are wired to is asked for under the input's name. */
  #inputs(): Field[] {
    const wired = this.course.steps.flatMap((step) =>
      Object.entries(step.wires).flatMap(([parameter, wire]) =>
        wire.from === 'input' ? [{ name: wire.name, schema: entriesOf(step.chunk)[parameter] }] : [],
      ),
    );
    const firsts = wired.filter(({ name }, at) => wired.findIndex((one) => one.name === name) === at);
    return firsts.map(({ name, schema }) => {
      const description = describeField(name, schema);
      return this.#field(name, { ...description, group: 'main' }, own(valuesOf(this.config), name));
    });
  }

  #fieldsOf(step: Step): Field[] {
    const entries = openEntries(step);
    const configured = valuesOf(this.config);
    const ownValues = own(configured, step.id) as Record<string, unknown> | undefined;
    const isShared = (name: string) =>
      this.course.steps.some((other) => other !== step && name in openEntries(other)) || this.#isInput(name);
    const made = (name: string, companion: Field | null = null) => {
      const description = describeField(name, entries[name]);
      const configuredValue = own(ownValues ?? {}, name) ?? own(configured, name);
      const initial = configuredValue ?? description.initial ?? this.#usual(description);
      const isMain = step === this.course.main;
      const group = isMain || (description.isRequired && initial === undefined) ? description.group : 'more';
      const key = isMain && !isShared(name) ? name : `${step.id}.${name}`;
      const control = companion ? 'size' : description.control;
      return this.#field(key, { ...description, group, control }, initial, companion);
    };
    const isSize = 'width' in entries && 'height' in entries;
    return Object.keys(entries)
      .filter((name) => !(isSize && name === 'height') && !(isMain(step, this.course) && this.#isInput(name)))
      .map((name) => made(name, isSize && name === 'width' ? made('height') : null))
      .filter(({ description }) => description.group !== 'none');
  }

  #isInput(name: string): boolean {
    return this.course.steps.some(({ wires }) =>
      Object.values(wires).some((wire) => wire.from === 'input' && wire.name === name),
    );
  }

  /** A language is the page's where nothing says otherwise. */
  #usual({ name, choices }: FieldDescription): unknown {
    return name === 'language' && choices.some(({ value }) => value === language.current)
      ? language.current
      : undefined;
  }

  #field(key: string, description: FieldDescription, initial: unknown, companion: Field | null = null): Field {
    const values = this.#kept.current.values[this.config.id];
    const store: FieldStore = {
      read: (name) => values[name] ?? null,
      write: (name, text) => {
        if (text === null) {
          delete values[name];
        } else {
          values[name] = text;
        }
        this.#kept.keep();
      },
      keepFiles: (name, files) => {
        // Where nothing can be stored they last as long as the page.
        keep(this.#fileKey(name), files).catch(() => undefined);
      },
    };
    return new Field(key, description, initial, store, companion);
  }

  async #restoreFiles(field: Field): Promise<void> {
    if (takesFiles(field.description)) {
      const files: GivenFile[] = v.parse(v.fallback(filesSchema, []), await readKept(this.#fileKey(field.key)));
      field.files = field.files.length > 0 ? field.files : files;
    }
  }

  #fileKey(name: string): string {
    return `field/${this.config.id}/${name}`;
  }
}

function isMain(step: Step, course: Course): boolean {
  return step === course.main;
}

function own(values: Record<string, unknown>, name: string): unknown {
  return Object.hasOwn(values, name) ? values[name] : undefined;
}
