import * as v from 'valibot';
import type { LoraUse } from '../../core/loras.ts';
import type { OperationInput } from '../../core/operation.ts';
import * as parameter from '../../core/parameters.ts';
import { WHITE } from '../../formats/background.ts';
import { randomSeed } from '../fields/seed.ts';
import { Entry } from './entry.svelte.ts';
import { said, t } from '../messages/messages.svelte.ts';
import { Persisted } from '../parts/persisted.svelte.ts';

/** Null: nobody chose, the field follows the checkpoint. */
const own = v.fallback(v.nullable(v.string()), null);
const text = v.fallback(v.string(), '');

const schema = v.object({
  prompt: own,
  negative: text,
  steps: own,
  guidance: own,
  width: own,
  height: own,
  strength: own,
  seed: text,
  keepSeed: v.fallback(v.boolean(), false),
  sampler: text,
  schedule: text,
  /** Of {@link PREDICTIONS}; empty = as the checkpoint says. */
  prediction: text,
  count: v.fallback(v.picklist([1, 2, 3, 4]), 1),
  /** What Stable Diffusion XL is told of sizes, as typed, by parameter; those that nobody chose are not there. */
  sizes: v.fallback(v.record(v.string(), v.string()), {}),
  /** Switched on; a weight of null is 1. */
  loras: v.fallback(v.array(v.object({ lora: v.string(), name: v.string(), weight: own })), []),
  /** What the mask keeps is laid over the result. */
  overlays: v.fallback(v.boolean(), true),
  /** Shows through the transparent parts of the starting picture. */
  background: v.fallback(parameter.background(), WHITE),
  lorasOpen: v.fallback(v.boolean(), false),
  settingsOpen: v.fallback(v.boolean(), false),
});

/** What can be said of a checkpoint's network by hand, as parameters. */
const PREDICTIONS: Partial<Record<string, Record<string, unknown>>> = {
  noise: { prediction_type: 'epsilon', rescale_betas_zero_snr: false },
  velocity: { prediction_type: 'v_prediction', rescale_betas_zero_snr: false },
  velocity_zero_snr: { prediction_type: 'v_prediction', rescale_betas_zero_snr: true },
};

/** The id of what these parameters say; empty where they say nothing. */
export function predictionOf({ prediction_type, rescale_betas_zero_snr }: Record<string, unknown>): string {
  return prediction_type === 'v_prediction'
    ? rescale_betas_zero_snr === true
      ? 'velocity_zero_snr'
      : 'velocity'
    : prediction_type === 'epsilon'
      ? 'noise'
      : '';
}

/** What a checkpoint, its config and its chunk suggest. */
export interface Suggestions {
  prompts: string[];
  width: number;
  height: number;
  steps: number;
  guidance: number;
  sampler: string;
  schedule: string;
  prediction: string;
  takesSizes: boolean;
  /** Of which width and height are, in pixels. */
  multiple: number;
  /** The only samplers that can follow the checkpoint; null = all. */
  samplers: readonly string[] | null;
}

export interface Pictures {
  image: Blob;
  mask: Blob | null;
  isTransparent: boolean;
}

type OwnField = 'prompt' | 'steps' | 'guidance' | 'width' | 'height' | 'strength';

/** What somebody asks for, as typed; kept over reloads. */
export class Form {
  readonly #saved = new Persisted('darkroom.form', schema);
  readonly #hasMask: () => boolean;
  /** By ref; made when they are first asked for. */
  readonly #loraWeights: Partial<Record<string, Entry>> = {};
  suggestions = $state.raw<Suggestions>({
    prompts: [],
    width: 512,
    height: 512,
    steps: 25,
    guidance: 7.5,
    sampler: '',
    schedule: '',
    prediction: '',
    takesSizes: false,
    multiple: 8,
    samplers: null,
  });

  #example = $state('');
  readonly prompt = this.#entry(
    'prompt',
    () => t('Prompt'),
    () => this.#example,
  );
  readonly steps = this.#entry(
    'steps',
    () => t('Steps'),
    (s) => s.steps,
    () => parameter.steps(),
  );
  readonly guidance = this.#entry(
    'guidance',
    () => t('Guidance'),
    (s) => s.guidance,
    () => parameter.guidanceScale(),
  );
  readonly width = this.#entry(
    'width',
    () => t('Width'),
    (s) => s.width,
    (s) => parameter.size('width', 16, 4096, s.multiple),
  );
  readonly height = this.#entry(
    'height',
    () => t('Height'),
    (s) => s.height,
    (s) => parameter.size('height', 16, 4096, s.multiple),
  );
  /** diffusers' own: a picture is changed a good deal, the white of a mask wholly. */
  readonly strength = this.#entry(
    'strength',
    () => t('Strength'),
    () => parameter.usualStrength(this.#hasMask()),
    () => parameter.strength(),
  );
  /** Free while every picture gets a new seed, so its text is judged only when it is kept. */
  readonly seed: Entry = new Entry(() => t('Seed'), {
    read: () => this.#saved.current.seed,
    write: (seed) => (this.#saved.current.seed = seed ?? ''),
    suggestion: () => '',
    check: (entry) =>
      !this.options.keepSeed || v.is(parameter.seed(), entry.text.trim())
        ? null
        : t('Seed must be a whole number from 0 to 18446744073709551615.'),
  });

  constructor(hasMask: () => boolean) {
    this.#hasMask = hasMask;
  }

  /** Whether the checkpoint's noise levels are a flow's, so that nothing is to be said of what its network predicts. */
  get isFlow(): boolean {
    return this.suggestions.prediction === 'flow_prediction';
  }

  /** Whether a sampler can follow the checkpoint. */
  takes(sampler: string): boolean {
    return this.suggestions.samplers?.includes(sampler) ?? true;
  }

  /** The fields that cannot be wrong. */
  get options() {
    return this.#saved.current;
  }

  keep(): void {
    this.#saved.keep();
  }

  /** Switches a LoRA on or off; without a weight it keeps the one that it has. */
  chooseLora(ref: string, name: string, isOn: boolean, weight?: number): void {
    const others = this.options.loras.filter(({ lora }) => lora !== ref);
    const known = this.options.loras.find(({ lora }) => lora === ref);
    const text = weight === undefined ? (known?.weight ?? null) : weight === 1 ? null : String(weight);
    this.options.loras = isOn ? [...others, { lora: ref, name, weight: text }] : others;
  }

  /** How much of a LoRA that is on is used. */
  loraWeight(ref: string): Entry {
    const chosen = () => this.options.loras.find(({ lora }) => lora === ref);
    const entry =
      this.#loraWeights[ref] ??
      new Entry(() => t('Weight'), {
        read: () => chosen()?.weight ?? null,
        write: (weight) => {
          const lora = chosen();
          if (lora) {
            lora.weight = weight;
          }
        },
        suggestion: () => '1',
        check: (one) => problem(parameter.loraWeight(), one),
      });
    this.#loraWeights[ref] = entry;
    return entry;
  }

  /** From now on the fields that nobody chose follow another checkpoint. Without an example the words stay. */
  suggest(suggestions: Suggestions): void {
    this.#example = suggestions.prompts[0] ?? this.prompt.text;
    this.suggestions = suggestions;
  }

  /**
   * Checks what this operation needs; what is wrong says so from now on.
   * @param loras refs of those that it uses
   */
  isValid(kind: string, loras: readonly string[]): boolean {
    const needed = [this.steps, this.guidance, this.width, this.height, this.seed];
    needed.push(...loras.map((ref) => this.loraWeight(ref)));
    if (kind !== 'image_generation') {
      needed.push(this.strength);
    }
    return needed.map((entry) => entry.ask()).every(Boolean);
  }

  /** The valid form as an operation. Draws the seed, and shows it, unless it is kept. */
  operation(config: string, checkpoint: string, pictures: Pictures | null, loras: readonly LoraUse[]): OperationInput {
    const options = this.options;
    if (!options.keepSeed) {
      this.seed.text = randomSeed();
    }
    return {
      operation: operationKind(pictures),
      config,
      checkpoint,
      parameters: {
        prompt: this.prompt.text,
        negative_prompt: options.negative,
        width: this.width.value,
        height: this.height.value,
        steps: this.steps.value,
        guidance_scale: this.guidance.value,
        seed: this.seed.text.trim(),
        batch_size: options.count,
        ...(options.sampler !== '' && this.takes(options.sampler) ? { sampler: options.sampler } : {}),
        ...(options.schedule === '' ? {} : { schedule: options.schedule }),
        ...(this.isFlow ? {} : PREDICTIONS[options.prediction]),
        ...(this.suggestions.takesSizes ? mapped(options.sizes, Number) : {}),
        ...(loras.length > 0 ? { loras } : {}),
        ...(pictures ? { image: pictures.image, strength: this.strength.value } : {}),
        ...(pictures?.isTransparent ? { background: options.background } : {}),
        ...(pictures?.mask ? { mask_image: pictures.mask } : {}),
        ...(pictures?.mask && !options.overlays ? { overlay_inpaint: false } : {}),
      },
    };
  }

  /** Takes over the parameters of an earlier run; what it does not say stays as it is. */
  restore(parameters: Record<string, unknown>): void {
    const take = (entry: Entry, name: string) => {
      const value = parameters[name];
      if (typeof value === 'string' || typeof value === 'number') {
        entry.text = String(value);
        entry.ask();
      }
    };
    take(this.prompt, 'prompt');
    take(this.steps, 'steps');
    take(this.guidance, 'guidance_scale');
    take(this.width, 'width');
    take(this.height, 'height');
    take(this.strength, 'strength');
    const { negative_prompt: negative, sampler, schedule, seed } = parameters;
    this.options.negative = typeof negative === 'string' ? negative : '';
    this.options.sampler = typeof sampler === 'string' ? sampler : '';
    this.options.schedule = typeof schedule === 'string' ? schedule : '';
    this.options.prediction = predictionOf(parameters);
    this.options.sizes = mapped(
      Object.fromEntries(Object.entries(parameters).filter(([name]) => /^(original|crop|target)_/.test(name))),
      String,
    );
    this.options.overlays = parameters.overlay_inpaint !== false;
    this.options.background = parameter.isColour(parameters.background) ? parameters.background : WHITE;
    if (typeof seed === 'string') {
      this.options.keepSeed = true;
      this.seed.text = seed;
    }
  }

  /** Whether somebody's own size, steps, guidance, sampler or schedule stands where the checkpoint suggests another. */
  get differs(): boolean {
    const { sampler, schedule, prediction } = this.options;
    return this.#followers.some((entry) => entry.differs) || [sampler, schedule, prediction].some((own) => own !== '');
  }

  followCheckpoint(): void {
    this.#followers.forEach((entry) => entry.follow());
    this.options.sampler = '';
    this.options.schedule = '';
    this.options.prediction = '';
  }

  get #followers(): Entry[] {
    return [this.width, this.height, this.steps, this.guidance];
  }

  #entry(
    field: OwnField,
    label: () => string,
    suggestion: (suggestions: Suggestions) => string | number,
    number?: (suggestions: Suggestions) => v.GenericSchema<number>,
  ): Entry {
    return new Entry(label, {
      read: () => this.#saved.current[field],
      write: (value) => (this.#saved.current[field] = value),
      suggestion: () => String(suggestion(this.suggestions)),
      check: (entry) => (number ? problem(number(this.suggestions), entry) : null),
    });
  }
}

function mapped<T>(record: Record<string, unknown>, to: (value: unknown) => T): Record<string, T> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, to(value)]));
}

export function operationKind(pictures: Pictures | null): string {
  return pictures === null ? 'image_generation' : pictures.mask ? 'image_inpaint' : 'image_transform';
}

/** The schema's sentence, with the field's label in place of the parameter's name. */
function problem(schema: v.GenericSchema<number>, entry: Entry): string | null {
  const result = v.safeParse(schema, entry.value, { abortEarly: true });
  return result.success ? null : said(result.issues[0].message).replace(/^\w+/, entry.label);
}
