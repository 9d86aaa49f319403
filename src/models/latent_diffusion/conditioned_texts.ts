/**
 * Which texts each call of the denoiser gets: a prompt may consist of several, each with a weight, and each may change along the way.
 */
import type { Conditioning } from '../../core/model.ts';
import { elements, type Arithmetic, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { Prediction } from '../../engine/sampling_loop.ts';
import { scheduledAt } from '../../text/prompt_schedule.ts';
import type { EncodedText, Side } from './networks.ts';
import { lengthened } from './prompt_reader.ts';

/** Texts and the calls of the network until which they apply. */
export type TextSchedule = readonly { until: number; text: EncodedText }[];

/** The prompt and, with guidance, the negative prompt, in the denoiser's form. */
export class TextConditioning implements Conditioning {
  constructor(
    /** The prompts followed simultaneously. */
    readonly prompts: readonly { weight: number; schedule: TextSchedule }[],
    readonly negative: TextSchedule | null,
    readonly tokens: Conditioning['tokens'],
    readonly texts: Conditioning['texts'],
    readonly guidance: number,
    /** Whether the guidance scale applies; several prompts need a negative one at any scale. */
    readonly isGuided = negative !== null,
  ) {}

  /** Whether it is a single prompt with weight 1, which can share a batch with the negative prompt. */
  get isSingle(): boolean {
    return this.prompts.length === 1 && this.prompts[0].weight === 1;
  }

  dispose(): void {
    const schedules = [...this.prompts.map(({ schedule }) => schedule), ...(this.negative ? [this.negative] : [])];
    for (const text of new Set(schedules.flatMap((schedule) => schedule.map((one) => one.text)))) {
      text.states.dispose();
      text.pooled?.dispose();
    }
  }
}

/** The texts of one sampling, each repeated for the rows of a call. */
export class ConditionedTexts {
  /** For {@link DenoiserRequest}, without duplicates. */
  readonly embeddings: DeviceTensor[] = [];
  readonly pooled: DeviceTensor[] = [];
  /** What the equally many parts of each embedding's rows are for. */
  readonly sides: Side[][] = [];
  readonly #calls: number[][] = [];
  readonly #places = new Map<string, number>();
  readonly #names = new Map<EncodedText, number>();
  readonly #tokens: number;
  #mixed: [DeviceTensor, DeviceTensor] | null = null;

  /**
   * @param batch pictures
   * @param isBatched whether negative prompt and prompt share one call
   * @param calls total calls of the network
   * @param hold keeps tensors until the sampling is over
   */
  constructor(
    readonly arithmetic: Arithmetic,
    readonly texts: TextConditioning,
    readonly batch: number,
    readonly isBatched: boolean,
    calls: number,
    readonly hold: (tensor: DeviceTensor) => DeviceTensor,
  ) {
    const { prompts, negative } = texts;
    const groups = Array.from({ length: Math.max(1, calls) }, (_, call) => {
      const positive = prompts.map(({ schedule }) => scheduledAt(schedule, call).text);
      const against = negative ? [scheduledAt(negative, call).text] : [];
      // All prompts are padded to the longest by repeating their last token.
      const longest = Math.max(...positive.map(tokensOf));
      return [
        ...against.map((text) => ({ text, tokens: tokensOf(text), side: 'negative' as const })),
        ...positive.map((text) => ({ text, tokens: longest, side: 'positive' as const })),
      ];
    });
    this.#tokens = groups.flat().reduce((all, { tokens }) => leastCommonMultiple(all, tokens), 1);
    for (const group of groups) {
      this.#calls.push(isBatched ? [this.#place(group)] : group.map((one) => this.#place([one])));
    }
  }

  /** Tokens of each of the embeddings. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Indices of the embeddings for this call: the negative prompt first. */
  at(call: number): readonly number[] {
    return this.#calls[call];
  }

  /**
   * From what the denoiser gave for {@link at}.
   * @param count elements of the latents
   */
  prediction(predictions: readonly DeviceTensor[], count: number): Omit<Prediction, 'noise'> {
    const { texts, isBatched } = this;
    const guidance = texts.isGuided ? texts.guidance : 1;
    if (isBatched) {
      return { uncond: predictions[0], cond: predictions[0], condOffset: count, guidance };
    }
    const uncond = texts.negative ? predictions[0] : null;
    const given = predictions.slice(uncond ? 1 : 0);
    const cond = texts.isSingle ? given[0] : this.#composed(uncond, given);
    return { uncond, cond, condOffset: 0, guidance };
  }

  /** u + Σ w · (c − u), so that guiding it guides by each prompt with its weight. */
  #composed(uncond: DeviceTensor | null, given: readonly DeviceTensor[]): DeviceTensor {
    const weights = this.texts.prompts.map(({ weight }) => weight);
    const { arithmetic } = this;
    this.#mixed ??= [this.hold(arithmetic.empty(given[0].dims)), this.hold(arithmetic.empty(given[0].dims))];
    let [into, from] = this.#mixed;
    const rest = 1 - weights.reduce((sum, weight) => sum + weight, 0);
    arithmetic.combine(into, uncond ? rest : 0, uncond ?? given[0], weights[0], given[0]);
    given.slice(1).forEach((prediction, k) => {
      [into, from] = [from, into];
      arithmetic.combine(into, 1, from, weights[k + 1], prediction);
    });
    return into;
  }

  #place(group: readonly { text: EncodedText; tokens: number; side: Side }[]): number {
    const name = group.map(({ text, tokens, side }) => `${side} ${this.#nameOf(text)} ${tokens}`).join(', ');
    const known = this.#places.get(name);
    if (known !== undefined) {
      return known;
    }
    this.embeddings.push(this.hold(this.#rows(group.map(({ text, tokens }) => this.#states(text, tokens)))));
    const pooled = group.flatMap(({ text }) => text.pooled ?? []);
    if (pooled.length > 0) {
      this.pooled.push(this.hold(this.#rows(pooled)));
    }
    this.sides.push(group.map(({ side }) => side));
    this.#places.set(name, this.embeddings.length - 1);
    return this.embeddings.length - 1;
  }

  #states({ states }: EncodedText, tokens: number): DeviceTensor {
    let longer = states;
    if (tokens > longer.dims[1]) {
      longer = this.hold(lengthened(this.arithmetic, longer, tokens, 'last'));
    }
    if (this.#tokens > tokens) {
      longer = this.hold(lengthened(this.arithmetic, longer, this.#tokens, 'turn'));
    }
    return longer;
  }

  #nameOf(text: EncodedText): number {
    const name = this.#names.get(text) ?? this.#names.size;
    this.#names.set(text, name);
    return name;
  }

  /** Each of `rows` [1, …] repeated for every picture, one after another. */
  #rows(rows: readonly DeviceTensor[]): DeviceTensor {
    const { arithmetic, batch } = this;
    const [, ...dims] = rows[0].dims;
    const size = elements(dims);
    const all = arithmetic.empty([rows.length * batch, ...dims]);
    for (let n = 0; n < rows.length * batch; n++) {
      arithmetic.copy(rows[Math.floor(n / batch)], 0, all, n * size, size);
    }
    return all;
  }
}

function tokensOf({ states }: EncodedText): number {
  return states.dims[1];
}

function leastCommonMultiple(a: number, b: number): number {
  let [greater, smaller] = [a, b];
  while (smaller > 0) {
    [greater, smaller] = [smaller, greater % smaller];
  }
  return (a / greater) * b;
}
