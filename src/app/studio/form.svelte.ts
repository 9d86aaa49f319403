import * as v from 'valibot';
import { DEFAULT_GUIDANCE } from '../../core/guidance.ts';
import * as hires from '../../core/hires.ts';
import type { LoraUse } from '../../core/loras.ts';
import type { OperationInput } from '../../core/operation.ts';
import { SIDES } from '../../core/outpainting_parameters.ts';
import { USUAL_SHIFTS } from '../../core/model_sampling.ts';
import * as parameter from '../../core/parameters.ts';
import { UPSCALER } from '../../core/builtin_checkpoints.ts';
import type { PromptSyntax } from '../../core/model.ts';
import { WHITE } from '../../formats/background.ts';
import { randomSeed } from '../fields/seed.ts';
import { CHOSEN, CHOSEN_NAMES, OF_FLOWS, OF_GIVEN, PREDICTIONS, predictionOf, type ChosenName } from './chosen.ts';
import { Entry } from './entry.svelte.ts';
import { LoraEntries, loraSchema } from './lora_entries.svelte.ts';
import { said, t } from '../messages/messages.svelte.ts';
import { Persisted } from '../parts/persisted.svelte.ts';

/** Null: nobody chose, the field follows the checkpoint. */
const own = v.fallback(v.nullable(v.string()), null);
const text = v.fallback(v.string(), '');

/** What the upscaler that comes with the page can do. */
export const UPSCALES = [1, 2, 3, 4] as const;

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
  /** What is chosen of {@link CHOSEN}, as typed, by parameter; what nobody chose is not there. */
  chosen: v.fallback(v.record(v.string(), v.string()), {}),
  /** Lists of wildcards, as typed: a line for each, `name: one | another`. */
  wildcards: text,
  /** Switched on. */
  loras: v.fallback(v.array(loraSchema), []),
  /** How many times as wide and high pictures are made afterwards; 1 = they stay as they are. */
  upscale: v.fallback(v.nullable(v.picklist(UPSCALES)), null),
  /** Only what is masked is painted, at the size asked for. */
  onlyMasked: v.fallback(v.boolean(), false),
  /** What the mask keeps is laid over the result. */
  overlays: v.fallback(v.boolean(), true),
  /** Shows through the transparent parts of the starting picture. */
  background: v.fallback(parameter.background(), WHITE),
  lorasOpen: v.fallback(v.boolean(), false),
  settingsOpen: v.fallback(v.boolean(), false),
});

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
  /** Whether a picture can grow into a larger frame. */
  outpaints: boolean;
  upscale: number;
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
  readonly loras = new LoraEntries(this.#saved.current);
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
    outpaints: false,
    upscale: 1,
    multiple: 8,
    samplers: null,
  });

  #example = $state('');
  /** Whether somebody is about to write: an example that came now would end up among their words. */
  #isWriting = $state(false);
  readonly prompt = this.#entry(
    'prompt',
    () => t('Prompt'),
    () => (this.#isWriting ? '' : this.#example),
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
    () => parameter.usualStrength(this.outpaints || this.#hasMask()),
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
  readonly clipSkip = this.#chosenEntry('clip_skip', () => t('Clip skip'));
  readonly guidanceRescale = this.#chosenEntry('guidance_rescale', () => t('Rescaled guidance'), '0');
  readonly projectedShare = this.#chosenEntry(
    'apg_eta',
    () => t('Kept along the prompt'),
    String(DEFAULT_GUIDANCE.apg_eta),
  );
  readonly longestGuidance = this.#chosenEntry(
    'apg_norm_threshold',
    () => t('Most that guidance adds'),
    String(DEFAULT_GUIDANCE.apg_norm_threshold),
  );
  readonly shift = this.#chosenEntry(
    'shift',
    () => t('Shift'),
    () => usualShift(this.chosen('model_sampling')),
  );
  readonly fluxShift = {
    base: this.#chosenEntry('base_shift', () => t('Shift of small pictures'), String(USUAL_SHIFTS.base_shift)),
    max: this.#chosenEntry('max_shift', () => t('Shift of large pictures'), String(USUAL_SHIFTS.max_shift)),
    width: this.#chosenEntry(
      'shift_width',
      () => t('Width that is shifted for'),
      () => this.width.text,
    ),
    height: this.#chosenEntry(
      'shift_height',
      () => t('Height that is shifted for'),
      () => this.height.text,
    ),
  };
  readonly variation = this.#chosenEntry('variation_strength', () => t('Variation'), '0');
  readonly variationSeed = this.#chosenEntry('variation_seed', () => t('Seed of the variation'));
  readonly seedDelta = this.#chosenEntry('eta_noise_seed_delta', () => t('Seed offset of steps (ENSD)'), '0');

  readonly hiresScale = this.#chosenEntry('hires_scale', () => t('Upscale'), '1');
  readonly hiresSteps = this.#chosenEntry('hires_steps', () => t('Steps'));
  readonly hiresStrength = this.#chosenEntry(
    'hires_denoising_strength',
    () => t('Strength'),
    String(hires.USUAL_HIRES.strength),
  );

  readonly margins = {
    left: this.#chosenEntry('outpaint_left', () => t('Left'), '0'),
    top: this.#chosenEntry('outpaint_top', () => t('Top'), '0'),
    right: this.#chosenEntry('outpaint_right', () => t('Right'), '0'),
    bottom: this.#chosenEntry('outpaint_bottom', () => t('Bottom'), '0'),
  };
  readonly feather = this.#chosenEntry('outpaint_feather', () => t('Soft seam'), '0');

  readonly mask = {
    padding: this.#chosenEntry('mask_padding', () => t('Pixels around it'), '32'),
    grow: this.#chosenEntry('mask_grow', () => t('Grow the mask'), '0'),
    feather: this.#chosenEntry('mask_feather', () => t('Soften its edge'), '0'),
  };

  constructor(hasMask: () => boolean) {
    this.#hasMask = hasMask;
  }

  /** Whether the checkpoint's noise levels are a flow's, so that nothing is to be said of what its network predicts. */
  get isFlow(): boolean {
    return this.suggestions.prediction === 'flow_prediction';
  }

  /** Whether levels are shifted by ComfyUI's ModelSamplingFlux, so that no other shift counts. */
  get isOfFlux(): boolean {
    return this.chosen('model_sampling') === 'ModelSamplingFlux';
  }

  /** Whether the starting picture, where there is one, grows into a larger frame. */
  get outpaints(): boolean {
    return this.suggestions.outpaints && SIDES.some((side) => !['', '0'].includes(this.chosen(`outpaint_${side}`)));
  }

  /** How the starting picture is made to fit: see `StartPicture.prepare`. */
  get framing(): 'fitted' | 'exact' | 'whole' {
    return this.outpaints ? 'exact' : this.options.onlyMasked && this.#hasMask() ? 'whole' : 'fitted';
  }

  /** As somebody chose, else as the checkpoint suggests. */
  get upscale(): number {
    return this.options.upscale ?? this.suggestions.upscale;
  }

  /** The step that enlarges the picture, as an operation says it; nothing where it is switched off. */
  get upscaling(): { checkpoints?: Record<string, string>; scale?: number } {
    return this.upscale > 1 ? { checkpoints: { upscale: UPSCALER }, scale: this.upscale } : {};
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

  /** What was chosen of a parameter, as typed; empty = nothing. */
  chosen(name: ChosenName): string {
    return this.options.chosen[name] ?? '';
  }

  /** How the prompt is read: as AUTOMATIC1111 does where nobody chose, and word for word where a flow's encoder does. */
  get promptSyntax(): PromptSyntax {
    const chosen = this.chosen('prompt_syntax');
    return this.isFlow ? 'literal' : v.is(parameter.promptSyntax(), chosen) ? chosen : 'automatic1111';
  }

  /** The lists of wildcards by name. */
  get wildcards(): Record<string, string[]> {
    const lines = this.options.wildcards.split('\n').map((line) => /^\s*([^:\s]+)\s*:(.*)$/.exec(line));
    return Object.fromEntries(
      lines.flatMap((match) => (match ? [[match[1], match[2].split('|').map((one) => one.trim())]] : [])),
    );
  }

  choose(name: ChosenName, value: string): void {
    const others = Object.entries(this.options.chosen).filter(([other]) => other !== name);
    this.options.chosen = Object.fromEntries(value === '' ? others : [...others, [name, value]]);
  }

  #chosenEntry(name: ChosenName, label: () => string, suggested: string | (() => string) = ''): Entry {
    const { to, schema } = CHOSEN[name];
    const suggestion = () => (typeof suggested === 'string' ? suggested : suggested());
    return new Entry(label, {
      read: () => this.options.chosen[name] ?? null,
      write: (text) => {
        this.choose(name, text ?? '');
      },
      suggestion,
      check: (one) => {
        const result = v.safeParse(schema(this.suggestions.multiple), to(one.text.trim()), { abortEarly: true });
        return one.text === suggestion() || result.success
          ? null
          : said(result.issues[0].message).replace(/^\w+/, one.label);
      },
    });
  }

  /** @returns those of {@link CHOSEN} that this checkpoint takes and that do something, as parameters. */
  #choices(isFromWords: boolean): Record<string, unknown> {
    const varies = Number(this.chosen('variation_strength')) > 0;
    const isPerPicture = ['nv', 'a1111_cpu'].includes(this.chosen('noise'));
    const isIdle = (name: ChosenName) =>
      (name === 'guidance_rescale' && !(Number(this.chosen(name)) > 0)) ||
      (this.chosen('guidance_method') !== 'apg' && name.startsWith('apg')) ||
      (name === 'guidance_method' && !this.isFlow && this.chosen(name) === 'comfyui_cfg_norm') ||
      (name === 'shift' && (!this.isFlow || this.isOfFlux)) ||
      (!this.isOfFlux && /^(base|max)_shift|^shift_/.test(name)) ||
      (!varies && name.startsWith('variation')) ||
      (!(isFromWords && this.hiresScale.value > 1) && name.startsWith('hires')) ||
      (!isPerPicture && name === 'eta_noise_seed_delta') ||
      ((isFromWords || !this.outpaints) && name.startsWith('outpaint')) ||
      name === 'mask_padding' ||
      ((isFromWords || this.outpaints || !this.#hasMask()) && /^(mask|soft)_/.test(name));
    const names = CHOSEN_NAMES.filter(
      (name) => this.chosen(name) !== '' && !isIdle(name) && (!this.isFlow || OF_FLOWS.test(name)),
    );
    return Object.fromEntries(names.map((name) => [name, CHOSEN[name].to(this.chosen(name).trim())]));
  }

  /** @param isInBox whether the box of the prompt has the focus */
  write(isInBox: boolean): void {
    this.#isWriting = isInBox && this.prompt.text === '';
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
    needed.push(
      ...loras.flatMap((ref) => this.loras.of(ref)),
      this.clipSkip,
      this.guidanceRescale,
      ...(this.chosen('guidance_method') === 'apg' ? [this.projectedShare, this.longestGuidance] : []),
      ...(this.isFlow ? (this.isOfFlux ? Object.values(this.fluxShift) : [this.shift]) : []),
      this.variation,
      this.variationSeed,
      this.seedDelta,
      this.hiresScale,
      this.hiresSteps,
      this.hiresStrength,
    );
    if (kind !== 'image_generation') {
      needed.push(this.strength, ...(this.outpaints ? [...Object.values(this.margins), this.feather] : []));
      needed.push(...(this.#hasMask() && !this.outpaints ? Object.values(this.mask) : []));
    }
    return needed.map((entry) => entry.ask()).every(Boolean);
  }

  /** The valid form as an operation. Draws the seed, and shows it, unless it is kept. */
  operation(config: string, checkpoint: string, pictures: Pictures | null, loras: readonly LoraUse[]): OperationInput {
    const options = this.options;
    if (!options.keepSeed) {
      this.seed.text = randomSeed();
    }
    const { checkpoints, scale } = this.upscaling;
    if (Number(this.chosen('variation_strength')) > 0 && this.chosen('variation_seed') === '') {
      this.choose('variation_seed', randomSeed());
    }
    const outpaints = pictures !== null && this.outpaints;
    return {
      operation: outpaints ? 'image_outpaint' : operationKind(pictures),
      config,
      checkpoint,
      ...(checkpoints ? { checkpoints } : {}),
      parameters: {
        ...(scale === undefined ? {} : { scale }),
        prompt: this.prompt.text,
        negative_prompt: options.negative,
        // The frame says it.
        ...(outpaints ? {} : { width: this.width.value, height: this.height.value }),
        steps: this.steps.value,
        guidance_scale: this.guidance.value,
        seed: this.seed.text.trim(),
        batch_size: options.count,
        ...(options.sampler !== '' && this.takes(options.sampler) ? { sampler: options.sampler } : {}),
        ...(options.schedule === '' ? {} : { schedule: options.schedule }),
        ...(this.isFlow ? {} : PREDICTIONS[options.prediction]),
        ...this.#choices(pictures === null),
        ...(this.isFlow ? {} : { prompt_syntax: this.promptSyntax }),
        ...(Object.keys(this.wildcards).length > 0 && this.promptSyntax !== 'literal' && !this.isFlow
          ? { wildcards: this.wildcards }
          : {}),
        ...(this.suggestions.takesSizes ? mapped(options.sizes, Number) : {}),
        ...(loras.length > 0 ? { loras } : {}),
        ...(pictures ? { image: pictures.image, strength: this.strength.value } : {}),
        ...(pictures?.isTransparent ? { background: options.background } : {}),
        ...(pictures?.mask && !outpaints ? { mask_image: pictures.mask } : {}),
        ...(this.framing === 'whole'
          ? { mask_padding: this.mask.padding.value }
          : (outpaints || pictures?.mask) && !options.overlays
            ? { overlay_inpaint: false }
            : {}),
      },
    };
  }

  /**
   * Takes over the parameters of an earlier run; what it does not say stays as it is.
   * @param isWhole whether it would say that the picture was enlarged
   */
  restore(parameters: Record<string, unknown>, isWhole = true): void {
    if (isWhole) {
      this.options.upscale = UPSCALES.find((scale) => scale === parameters.scale) ?? 1;
    }
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
    this.options.chosen = mapped(
      Object.fromEntries(
        CHOSEN_NAMES.flatMap((name) => ((parameters[name] ?? null) === null ? [] : [[name, parameters[name]]])),
      ),
      String,
    );
    // What does not say how its prompt was read was read word for word.
    this.options.chosen.prompt_syntax ??= 'literal';
    this.options.wildcards = listsOf(parameters.wildcards);
    this.options.overlays = parameters.overlay_inpaint !== false;
    this.options.onlyMasked = typeof parameters.mask_padding === 'number';
    this.options.background = parameter.isColour(parameters.background) ? parameters.background : WHITE;
    if (typeof seed === 'string') {
      this.options.keepSeed = true;
      this.seed.text = seed;
    }
  }

  /** Whether somebody's own size, steps, guidance, sampler or schedule stands where the checkpoint suggests another. */
  get differs(): boolean {
    const { sampler, schedule, prediction } = this.options;
    return (
      this.#followers.some((entry) => entry.differs) ||
      [sampler, schedule, prediction].some((own) => own !== '') ||
      CHOSEN_NAMES.some((name) => !OF_GIVEN.test(name) && this.chosen(name) !== '')
    );
  }

  followCheckpoint(): void {
    this.#followers.forEach((entry) => entry.follow());
    this.options.sampler = '';
    this.options.schedule = '';
    this.options.prediction = '';
    this.options.chosen = Object.fromEntries(
      Object.entries(this.options.chosen).filter(([name]) => OF_GIVEN.test(name)),
    );
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

/** Of a node that is shifted by one number; empty where the checkpoint says it. */
function usualShift(node: string): string {
  return node === 'ModelSamplingAuraFlow' || node === 'ModelSamplingSD3' ? String(USUAL_SHIFTS[node]) : '';
}

/** Lists of wildcards as they are typed; foreign data. */
function listsOf(value: unknown): string {
  const lists = v.is(parameter.wildcards(), value) ? value : {};
  return Object.entries(lists)
    .map(([name, lines]) => `${name}: ${lines.join(' | ')}`)
    .join('\n');
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
