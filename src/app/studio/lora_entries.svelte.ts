/** How the LoRAs that are on are used, as typed. */
import * as v from 'valibot';
import type { LoraUse } from '../../core/loras.ts';
import * as parameter from '../../core/parameters.ts';
import { said, t } from '../messages/messages.svelte.ts';
import { Entry } from './entry.svelte.ts';

/** Null: nobody chose. */
const own = v.fallback(v.nullable(v.string()), null);

export const loraSchema = v.object({
  lora: v.string(),
  name: v.string(),
  weight: own,
  text_weight: own,
  blocks: own,
  start: own,
  end: own,
});
type Typed = v.InferOutput<typeof loraSchema>;

/** What is typed of each; what nobody chose is not said in operations, but the weight. */
const PARTS = {
  weight: { label: () => t('Weight'), suggestion: '1', to: numberOf, schema: parameter.loraWeight() },
  text_weight: {
    label: () => t('Weight for the text'),
    suggestion: '',
    to: numberOf,
    schema: parameter.loraWeight('text_weight'),
  },
  blocks: { label: () => t('Weights of blocks'), suggestion: '', to: listOf, schema: parameter.loraBlocks() },
  start: { label: () => t('Starts at'), suggestion: '0', to: numberOf, schema: parameter.share('start') },
  end: { label: () => t('Ends at'), suggestion: '1', to: numberOf, schema: parameter.share('end') },
} satisfies Record<string, { label: () => string; suggestion: string; to: unknown; schema: v.GenericSchema }>;
export type LoraPart = keyof typeof PARTS;
const NAMES = Object.keys(PARTS) as LoraPart[];
/** What only Stable Diffusion's UNets have. */
const OF_UNETS = ['text_weight', 'blocks', 'start', 'end'] as const;

export class LoraEntries {
  readonly #options: { loras: Typed[] };
  /** By ref and part; made when they are first asked for. */
  readonly #entries: Partial<Record<string, Entry>> = {};

  constructor(options: { loras: Typed[] }) {
    this.#options = options;
  }

  /** Switches one on or off; without a use it keeps the one that it has. */
  choose(ref: string, name: string, isOn: boolean, use?: Partial<Omit<LoraUse, 'lora'>>): void {
    const others = this.#options.loras.filter(({ lora }) => lora !== ref);
    const text = (part: LoraPart) => {
      const typed = use ? String(use[part] ?? '') : (this.#typed(ref)?.[part] ?? '');
      return typed === '' || typed === PARTS[part].suggestion ? null : typed;
    };
    const [weight, text_weight, blocks, start, end] = NAMES.map(text);
    this.#options.loras = isOn ? [...others, { lora: ref, name, weight, text_weight, blocks, start, end }] : others;
  }

  entry(ref: string, part: LoraPart): Entry {
    const { label, suggestion, to, schema } = PARTS[part];
    return (this.#entries[`${part} ${ref}`] ??= new Entry(label, {
      read: () => this.#typed(ref)?.[part] ?? null,
      write: (text) => {
        const lora = this.#typed(ref);
        if (lora) {
          lora[part] = text;
        }
      },
      suggestion: () => suggestion,
      check: (one) => {
        if (one.text === suggestion) {
          return null;
        }
        const result = v.safeParse(schema, to(one.text), { abortEarly: true });
        return !result.success
          ? said(result.issues[0].message).replace(/^\w+/, one.label)
          : part === 'end' && !(this.entry(ref, 'start').value < one.value)
            ? said('The start of a LoRA must lie before its end.')
            : null;
      },
    }));
  }

  /** All that is to be right for a LoRA. */
  of(ref: string): Entry[] {
    return NAMES.map((part) => this.entry(ref, part));
  }

  /** As operations have it. @param hasUnet whether blocks and steps count */
  use(ref: string, hasUnet: boolean): LoraUse {
    const chosen = OF_UNETS.filter((part) => hasUnet && this.entry(ref, part).differs);
    return {
      lora: ref,
      weight: this.entry(ref, 'weight').value,
      ...Object.fromEntries(chosen.map((part) => [part, PARTS[part].to(this.entry(ref, part).text)])),
    };
  }

  #typed(ref: string): Typed | undefined {
    return this.#options.loras.find(({ lora }) => lora === ref);
  }
}

function numberOf(text: string): number {
  return text.trim() === '' ? NaN : Number(text);
}

function listOf(text: string): number[] {
  return text
    .trim()
    .split(/\s*[,;\s]\s*/)
    .map(numberOf);
}
