/** The text behind a sampler's conditionings, found through everything that only changes or joins conditionings. */
import { shown } from '../findings.ts';
import { MAX_WALK, literal, type Node, type Place } from './graph.ts';
import { ofSide, type Routes, type Side } from './routes.ts';
import { wordsRank, type Strings } from './strings.ts';

export interface Words {
  /** '' if they were emptied; undefined if there are none or they could not be read. */
  text: string | undefined;
  /** Whether there was a node with text, readable or not. */
  isThere: boolean;
  /** The node that holds them. */
  node: Node | null;
  /** Distilled guidance set along the way, as for Flux. */
  guidance: unknown;
}

/** Fields of encoders that read a prompt with several networks; the most literal one comes first. */
const FIELDS: readonly (readonly [name: string, encoder: string])[] = [
  ['t5xxl', 'T5'],
  ['llama', 'Llama'],
  ['qwen25_7b', 'Qwen'],
  ['mt5xl', 'mT5'],
  ['text_g', 'CLIP-G'],
  ['clip_g', 'CLIP-G'],
  ['text_l', 'CLIP-L'],
  ['clip_l', 'CLIP-L'],
  ['bert', 'BERT'],
];
const SINGLE =
  /^(user_prompt|populated_text|text|prompt|string|wildcard_text|value|tags|caption|text_prompt|clip_text|prompt_text|text_input|opt_text|text_positive|lyrics)$/i;
const NO_WORDS = /normali|interpret|ascore|weight|mode|style|model|score|system/i;
const COMBINES =
  /^Conditioning(Combine|Concat|Average)|^(Impact|easy |CR ).*(Concat|Combine).*Cond|^ConditioningMultiCombine|CombineMultipleConditioning|^PairConditioning.*Combine|ConditioningSet.*Combine/i;

export class WordFinder {
  constructor(
    readonly routes: Routes,
    readonly strings: Strings,
    readonly lost: (what: string) => void,
  ) {}

  /** @param start the sampler or guider, seen from nowhere, or what feeds it */
  find(start: Place | null, side: Side): Words {
    const words: Words = { text: undefined, isThere: false, node: null, guidance: undefined };
    const seen = new Set<Node>();
    let asked = side;
    for (let place = start; place && !seen.has(place.node) && seen.size < MAX_WALK;) {
      const { node } = place;
      seen.add(node);
      asked = this.routes.side(place, asked);
      if (/ConditioningZeroOut|^EmptyConditioning/i.test(node.type)) {
        return { ...words, text: '', isThere: true };
      }
      words.guidance ??=
        /guidance/i.test(node.type) || /EncodeFlux/.test(node.type) ? literalOf(this, node) : undefined;
      const encoded = this.#encoded(node, asked);
      if (encoded.isThere) {
        return { ...words, ...encoded, node };
      }
      if (COMBINES.test(node.type)) {
        return this.#combined(place, asked, words);
      }
      place = this.routes.behind(place, asked);
    }
    return words;
  }

  #encoded(node: Node, side: Side): { text: string | undefined; isThere: boolean } {
    const names = [...node.inputs.keys()].slice(0, MAX_WALK);
    const ofThisSide = names.filter(
      (name) => ofSide(side).test(name) && !NO_WORDS.test(name) && this.#mayBeText(node, name),
    );
    if (ofThisSide.length > 0) {
      return { text: this.#mostOf(node, ofThisSide, side), isThere: true };
    }
    const takesConditioning = names.some((name) => /^cond/i.test(name) && this.routes.source(node, name) !== null);
    if (takesConditioning && (!names.includes('clip') || /GLIGEN/.test(node.type))) {
      return { text: undefined, isThere: false };
    }
    const otherSide = ofSide(side === 'positive' ? 'negative' : 'positive');
    const isEncoder =
      /encode|prompt|^text|conditioning$/i.test(node.type) ||
      names.some((name) => /^(clip|t5|text_encoder)$/i.test(name));
    const hasOwnText = names.some((name) => typeof literal(node, name) === 'string' && SINGLE.test(name));
    const several = FIELDS.filter(([name]) => names.includes(name));
    const ofFields = several.length > 0 ? this.#ofFields(node, several, side) : undefined;
    // Some also have one field for all, and leave the others empty.
    if (several.length > 0 && (ofFields !== '' || !hasOwnText)) {
      return { text: ofFields, isThere: true };
    }
    const single = names
      .filter((name) => SINGLE.test(name) && !otherSide.test(name) && this.#mayBeText(node, name))
      .sort((a, b) => wordsRank(a) - wordsRank(b));
    if (single.length === 0 || !(isEncoder || hasOwnText)) {
      return { text: undefined, isThere: false };
    }
    this.#lostBeside(node, single[0]);
    const text = single.map((name) => this.strings.field(node, name, side)).find((one) => one !== undefined);
    return { text, isThere: true };
  }

  #mayBeText(node: Node, name: string): boolean {
    const source = this.routes.source(node, name);
    return source ? !this.routes.isNoText(source) : typeof literal(node, name) === 'string';
  }

  #mostOf(node: Node, names: readonly string[], side: Side): string | undefined {
    const texts = names.map((name) => this.strings.field(node, name, side)).filter((text) => text !== undefined);
    const [first, ...others] = texts.filter((text) => text !== '');
    others.filter((text) => !first.includes(text)).forEach((text) => this.lost(`further words ("${shown(text)}")`));
    return first ?? texts.at(0);
  }

  #ofFields(node: Node, fields: readonly (readonly [string, string])[], side: Side): string | undefined {
    const read = fields.map(([name, encoder]) => ({ encoder, text: this.strings.field(node, name, side) }));
    const filled = read.filter(({ text }) => text !== undefined && text.trim() !== '');
    const main = filled.at(0)?.text;
    for (const { encoder, text } of filled.slice(1)) {
      if (text !== undefined && main !== undefined && !main.includes(text)) {
        this.lost(`the words that only its text encoder ${encoder} got ("${shown(text)}")`);
      }
    }
    return main ?? read.map(({ text }) => text).find((text) => text !== undefined);
  }

  #lostBeside(node: Node, used: string): void {
    if (used !== 'lyrics' && this.strings.field(node, 'lyrics')) {
      this.lost('the lyrics');
    }
    if (literal(node, 'system_prompt') !== undefined) {
      this.lost('the instructions that went before the prompt');
    }
  }

  #combined(place: Place, side: Side, words: Words): Words {
    const { node } = place;
    const pattern = /^PairConditioning/.test(node.type) ? ofSide(side) : /cond/i;
    const parts = [...node.inputs.keys()]
      .filter((name) => pattern.test(name))
      .map((name) => this.routes.source(node, name))
      .filter((one) => one !== null)
      .slice(0, 10);
    // Each part is looked through as a whole; parts that combine again are few in graphs made by people.
    const [first, ...others] = parts.map((part) => this.#part(part, side));
    const texts = [first, ...others].filter((one) => one?.text !== undefined);
    texts.slice(1).forEach(({ text }) => {
      if (text && text !== texts[0].text) {
        this.lost(`a further prompt that was combined with the first ("${shown(text)}")`);
      }
    });
    if (texts.length < parts.length && texts.length > 0) {
      this.lost('further prompts that were combined with the first');
    }
    return {
      ...words,
      node: texts.at(0)?.node ?? null,
      text: texts.at(0)?.text,
      isThere: parts.length > 0,
      guidance: words.guidance ?? texts.at(0)?.guidance,
    };
  }

  #depth = 0;

  #part(place: Place, side: Side): Words {
    if (this.#depth >= 4) {
      return { text: undefined, isThere: false, node: null, guidance: undefined };
    }
    this.#depth++;
    const words = this.find(place, side);
    this.#depth--;
    return words;
  }
}

function literalOf({ routes }: WordFinder, node: Node): unknown {
  return routes.value(node, 'guidance');
}
