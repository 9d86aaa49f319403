/** Whether and how the starting picture is painted large, tile by tile. Kept over reloads. */
import * as v from 'valibot';
import type { OperationInput } from '../../core/operation.ts';
import * as tiled from '../../core/tiled.ts';
import { overlapProblem, tileSide, usualOverlap } from '../../core/tiling.ts';
import { said, t } from '../messages/messages.svelte.ts';
import { Persisted } from '../parts/persisted.svelte.ts';
import { Entry } from './entry.svelte.ts';
import type { Form } from './form.svelte.ts';

/** Null: nobody chose. */
const typed = v.fallback(v.nullable(v.string()), null);

const schema = v.object({
  isOn: v.fallback(v.boolean(), false),
  scale: typed,
  size: typed,
  overlap: typed,
  /** As in operations; empty = none. */
  upscaler: v.fallback(v.string(), ''),
});

/** As tools that paint so usually begin. */
const USUAL_SCALE = 2;

export class Tiles {
  readonly #form: Form;
  readonly #saved = new Persisted('darkroom.tiles', schema);
  readonly scale = this.#entry(
    'scale',
    () => t('Enlarged'),
    () => USUAL_SCALE,
    tiled.tiledScale,
  );
  readonly size = this.#entry(
    'size',
    () => t('Size of a tile'),
    () => tileSide({}, this.#form.suggestions),
    () => tiled.tiledSize(this.#form.suggestions.multiple),
  );
  readonly overlap = this.#entry(
    'overlap',
    () => t('Overlap'),
    () => usualOverlap(this.size.value),
    () =>
      v.pipe(
        tiled.tiledOverlap(),
        v.check(
          (overlap) => overlapProblem(overlap, this.size.value) === null,
          ({ input }) => overlapProblem(input, this.size.value) ?? '',
        ),
      ),
  );

  constructor(form: Form) {
    this.#form = form;
  }

  keep(): void {
    this.#saved.keep();
  }

  /** What is chosen and cannot be wrong. */
  get options() {
    return this.#saved.current;
  }

  /** Whether the checkpoint paints so, and nothing but the whole picture is to be painted. @param hasMask of the starting picture */
  isUsed(hasMask: boolean): boolean {
    return this.options.isOn && !this.#form.isFlow && !this.#form.outpaints && !hasMask;
  }

  /** What is wrong says so from now on. */
  isValid(): boolean {
    return [this.scale, this.size, this.overlap].map((entry) => entry.ask()).every(Boolean);
  }

  get request(): tiled.TiledRequest {
    return {
      tiled_scale: this.scale.value,
      tiled_size: this.size.value,
      tiled_overlap: this.overlap.value,
      ...(this.options.upscaler === '' ? {} : { tiled_upscaler: this.options.upscaler }),
    };
  }

  /** A starting picture keeps its own size. */
  applyTo({ parameters: { width: _, height: __, ...parameters } = {}, ...operation }: OperationInput): OperationInput {
    return { ...operation, parameters: { ...parameters, ...this.request } };
  }

  restore(parameters: Record<string, unknown>): void {
    const text = (name: string) => {
      const value = parameters[name];
      return typeof value === 'string' || typeof value === 'number' ? String(value) : null;
    };
    const { options } = this;
    options.isOn = text('tiled_scale') !== null;
    options.scale = text('tiled_scale');
    options.size = text('tiled_size');
    options.overlap = text('tiled_overlap');
    options.upscaler = text('tiled_upscaler') ?? '';
  }

  #entry(
    field: 'scale' | 'size' | 'overlap',
    label: () => string,
    suggestion: () => number,
    schema: () => v.GenericSchema<number>,
  ): Entry {
    return new Entry(label, {
      read: () => this.options[field],
      write: (text) => (this.options[field] = text),
      suggestion: () => String(suggestion()),
      check: (one) => {
        const result = v.safeParse(schema(), one.value, { abortEarly: true });
        return result.success ? null : said(result.issues[0].message).replace(/^\w+/, one.label);
      },
    });
  }
}
