/** Evaluates text nodes: joining, replacing, trimming, choosing. Anything only known when running the graph stays unread. */
import { own, textOf } from '../json.ts';
import { MAX_WALK, linkNames, literal, word, type Node, type Place } from './graph.ts';
import { ofSide, type Routes, type Side } from './routes.ts';
import { cased, operated, safeExpression, substituted } from './text_changes.ts';

/** The most characters of joined text, since joining a node with itself doubles it. */
const MAX_TEXT = 100_000;
/** The longest chain of nodes that make one text. */
const MAX_DEPTH = 60;
/** Language and vision models, and random choices. */
const UNTOLD =
  /llm|gpt|ollama|florence|caption|interrogat|tagger|vlm|qwen.?(\d\.?\d?)?.?vl|moondream|llava|gemini|claude|deepseek|groq|openai|textgenerate|chat|enhanc|prompt.?(gen|expand|upsampl)|random|img2txt|image.?to.?(text|prompt)|load.*(line|text|prompt).*file|ideogram|puter\b|python|\bscript|\beval|expression|magic|prompt ?reader|metadata|parameter ?(extract|generat)/i;
const JOINS = /concat|join|combin|merge|append|stringfunction|build|stack|mix|add|compos|format/i;
/** Options for treating text, which are no text themselves. */
const SETTINGS =
  /delim|separat|seperat|^sep$|clean|tidy|mode$|action|strip|count|case|order|trigger|unique|lora|model|format|style|template|seed|preset|normali|interpret|prefix_?type|control|language|speaklanguage|parser|device|type$|^image$|file|path$|folder|director|url$|set_cond_area/i;
const DELIMITER = /delim|separat|seperat|^sep$|join_with|glue/i;
const BEFORE = /prefix|prepend|before|^pre/i;
const AFTER = /suffix|append|after|^post/i;
/** Fields that each contain the whole text, most informative first. */
const WORDS =
  /^(populated_text|user_prompt|text|prompt|string|value|wildcard_text|opt_text|text_input|string_input|input_text|prompt_text|texts|source|any|anything|content|text_0|text2|tags|caption|input)$/i;
const WORDS_ORDER = ['user_prompt', 'populated_text', 'text', 'prompt', 'tags', 'caption', 'string'];
/** Where a node that displays text stores it. */
const KEPT = ['text_0', 'text2', 'populated_text', 'result'];
/** These also join empty texts. */
const KEEPS_EMPTY = /^(StringConcatenate|JoinStrings|JoinStringMulti|CR Text Concatenate|easy promptConcat)$/;

/** Outputs that give some of a node's texts, joined, each by the places of those. */
const PAIRED: Partial<Record<string, readonly (readonly number[])[]>> = {
  'ttN text3BOX_3WAYconcat': [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]],
};

export class Strings {
  /** Whether a part of the words could not be followed. */
  isPartial = false;
  readonly #known = new Map<string, string | undefined>();
  readonly #open = new Set<string>();

  constructor(readonly routes: Routes) {}

  /** @returns undefined if it is no text, or cannot be followed */
  field(node: Node, name: string, asked: Side | null = null): string | undefined {
    const input = node.inputs.get(name);
    if (input && 'value' in input) {
      const { value } = input;
      return typeof value === 'string' ? value : typeof value === 'number' ? String(value) : cached(value);
    }
    const place = this.routes.source(node, name);
    return place ? this.text(place, asked) : undefined;
  }

  text(place: Place, asked: Side | null = null): string | undefined {
    const { node, output } = place;
    const key = `${node.id}#${output}#${asked}`;
    if (this.#known.has(key)) {
      return this.#known.get(key);
    }
    if (this.#open.has(node.id) || this.#open.size >= MAX_DEPTH || this.routes.isNoText(place)) {
      return undefined;
    }
    this.#open.add(node.id);
    const made = this.#made(place, asked);
    this.#open.delete(node.id);
    const text = made !== undefined && made.length > MAX_TEXT ? undefined : made;
    this.#known.set(key, text);
    return text;
  }

  #made(place: Place, asked: Side | null): string | undefined {
    const { node } = place;
    const { type } = node;
    const chosen = this.routes.chosen(node);
    if (chosen !== null) {
      return this.field(node, chosen, asked) ?? cachedText(node);
    }
    if (type === 'WidgetToString') {
      const shown = this.routes.graph.get(String(literal(node, 'id')));
      return shown && this.field(shown, word(node, 'widget_name'));
    }
    if (isList(node)) {
      // Each of several makes a picture of its own.
      const items = this.#items(node);
      return items?.length === 1 ? items[0] : undefined;
    }
    if (/promptline/i.test(type)) {
      return this.#line(node);
    }
    if (/regex/i.test(type) && hasAll(node, /regex|pattern/i, /replace/i)) {
      return this.#regexReplaced(node);
    }
    if (/regex.?extract/i.test(type)) {
      return this.#regexExtracted(node);
    }
    if (/split/i.test(type) && hasAll(node, DELIMITER)) {
      return this.#split(place);
    }
    if (hasAll(node, /^blacklist/i)) {
      return this.#blacklisted(node);
    }
    if (hasAll(node, /^find|^search|^old/i, /^replace|^new/i)) {
      return this.#replaced(node);
    }
    if (type === 'StringFunction|pysssss' && literal(node, 'action') === 'replace') {
      return this.#functionReplaced(node);
    }
    if (UNTOLD.test(type) || hasImage(node)) {
      const shown = literal(node, 'populated_text');
      return typeof shown === 'string' && shown !== '' ? shown : cachedText(node);
    }
    return this.#changed(node, this.#words(place, asked));
  }

  /** The node's words, before it changes them. */
  #words(place: Place, asked: Side | null): string | undefined {
    const { node } = place;
    const side = asked ? this.routes.side(place, asked) : sideNamed(this.routes.outputName(place));
    if (side) {
      const own = [...node.inputs.keys()].find((name) => ofSide(side).test(name) && !SETTINGS.test(name));
      const text = own === undefined ? undefined : this.field(node, own, side);
      if (text !== undefined) {
        return text;
      }
    }
    const list = linkNames(node).find((name) => /list/i.test(name) && isList(this.routes.source(node, name)?.node));
    const items = list === undefined ? null : this.#items(this.routes.source(node, list)?.node);
    if (items) {
      return items.join(this.#delimiter(node));
    }
    const names = this.#textNames(node);
    const parts = series(names);
    if (this.routes.lastUsed(node) > 0 && place.output < names.length) {
      // If several outputs are used, each has the text at its own index, whatever their names.
      const own = parts.length > 1 ? parts.at(place.output) : names[place.output];
      const isSided = names.some((name) => ofSide('positive').test(name) || ofSide('negative').test(name));
      if (own !== undefined && !isSided && (parts.length > 1 || !names.some((name) => WORDS.test(name)))) {
        return this.field(node, own);
      }
    }
    const several = PAIRED[node.type]?.at(place.output);
    if (several) {
      return this.#joined(
        node,
        names,
        several.map((i) => parts[i]).filter((name) => name !== undefined),
      );
    }
    if (parts.length > 1 && (JOINS.test(node.type) || !hasSeveralOutputs(node))) {
      return this.#joined(node, names, parts);
    }
    // Nodes that hold several texts give each at its own output.
    if (parts.length > 1 && place.output >= 0) {
      return place.output < parts.length ? this.field(node, parts[place.output]) : this.#joined(node, names, parts);
    }
    const around = names.some((name) => BEFORE.test(name) || AFTER.test(name));
    const [words] = names.filter((name) => WORDS.test(name)).sort((a, b) => wordsRank(a) - wordsRank(b));
    const main = words ?? names.find((name) => !BEFORE.test(name) && !AFTER.test(name));
    if (around && main !== undefined) {
      return this.#joined(node, names, [main]);
    }
    return main === undefined ? undefined : (this.field(node, main, asked) ?? cachedText(node));
  }

  /** The inputs that are words or lead to some. */
  #textNames(node: Node): string[] {
    return [...node.inputs]
      .slice(0, MAX_WALK)
      .filter(([name, input]) => {
        if (SETTINGS.test(name) || (/show|display|preview|debug/i.test(node.type) && KEPT.includes(name))) {
          return false;
        }
        // What an unused list shows.
        if ((BEFORE.test(name) || AFTER.test(name)) && /^select\b/i.test(word(node, name))) {
          return false;
        }
        const place = this.routes.source(node, name);
        return 'value' in input ? typeof input.value === 'string' : place !== null && !this.routes.isNoText(place);
      })
      .map(([name]) => name);
  }

  /** The texts of a node that lists them. */
  #items(node: Node | undefined): string[] | null {
    const texts = node ? series(this.#textNames(node)).map((name) => this.field(node, name)) : [];
    return texts.every((text) => text !== undefined) ? texts.filter((text) => text !== '') : null;
  }

  /** The single line a node takes from several; undefined if it takes more, since each then makes a picture of its own. */
  #line(node: Node): string | undefined {
    const text = this.field(node, 'prompt') ?? this.field(node, 'text');
    const [start, count] = ['start_index', 'max_rows'].map((name) => Number(this.routes.value(node, name) ?? NaN));
    const isKept = literal(node, 'remove_empty_lines') === false;
    const lines = text?.split('\n').filter((line) => isKept || line.trim() !== '') ?? [];
    const from = Number.isNaN(start) ? 0 : start;
    const taken = lines.slice(from, Number.isNaN(count) ? undefined : from + count);
    return taken.length === 1 ? taken[0].trim() : undefined;
  }

  #split({ node, output }: Place): string | undefined {
    const main = this.#textNames(node).find((name) => !DELIMITER.test(name));
    const text = main === undefined ? undefined : this.field(node, main);
    const parts = text?.split(this.#delimiter(node) || '\n') ?? [];
    // With one output it gives them all, one after the other.
    return text === undefined || (this.routes.lastUsed(node) === 0 && parts.length > 1 && !/^CR /.test(node.type))
      ? undefined
      : (parts.at(Math.max(0, output))?.trim() ?? '');
  }

  #blacklisted(node: Node): string | undefined {
    const names = this.#textNames(node);
    const main = names.find((name) => !/^(blacklist|replace)/i.test(name));
    const [words, by] = [/^blacklist/i, /^replace/i].map((pattern) => names.find((name) => pattern.test(name)));
    const text = main === undefined ? undefined : this.field(node, main);
    const instead = by === undefined ? '' : (this.field(node, by) ?? '');
    const sought = (words === undefined ? '' : (this.field(node, words) ?? '')).split('\n').slice(0, MAX_WALK);
    return sought
      .filter((one) => one !== '')
      .reduce((made, one) => (made && made.length <= MAX_TEXT ? made.replaceAll(one, () => instead) : made), text);
  }

  #joined(node: Node, names: readonly string[], parts: readonly string[]): string | undefined {
    const delimiter = this.#delimiter(node);
    const keepsEmpty = KEEPS_EMPTY.test(node.type);
    const cleans = /^(true|yes|enable)/i.test(word(node, 'clean_whitespace'));
    const order = [
      ...names.filter((name) => BEFORE.test(name) && !parts.includes(name)),
      ...parts,
      ...names.filter((name) => AFTER.test(name) && !BEFORE.test(name) && !parts.includes(name)),
    ];
    const texts = order.map((name) => this.field(node, name));
    const read = texts.filter((text) => text !== undefined).map((text) => (cleans ? text.trim() : text));
    if (read.length === 0) {
      return undefined;
    }
    this.isPartial ||= read.length < texts.length;
    const size = read.reduce((sum, { length }) => sum + length, 0);
    return size > MAX_TEXT ? undefined : read.filter((text) => keepsEmpty || text !== '').join(delimiter);
  }

  #delimiter(node: Node): string {
    const name = [...node.inputs.keys()].find((one) => DELIMITER.test(one));
    if (name === undefined) {
      return node.type === 'StringFunction|pysssss' && literal(node, 'tidy_tags') === 'yes' ? ', ' : '';
    }
    const delimiter = this.field(node, name) ?? '';
    const word = { newline: '\n', comma: ', ', space: ' ', none: '' }[delimiter.toLowerCase()];
    return word ?? delimiter.replaceAll('\\n', '\n').replaceAll('\\t', '\t');
  }

  /** Pairs of search and replacement, in order: find1, replace1, find2 … */
  #replaced(node: Node): string | undefined {
    const names = [...node.inputs.keys()];
    const finds = names.filter((name) => /^find|^search|^old/i.test(name)).sort(naturally);
    const main = this.#textNames(node).find((name) => !/^(find|search|old|replace|new)/i.test(name));
    let text = main === undefined ? undefined : this.field(node, main);
    for (const find of finds) {
      const by = names.find((name) => /^replace|^new/i.test(name) && digits(name) === digits(find));
      const sought = this.field(node, find) ?? '';
      const instead = by === undefined ? '' : (this.field(node, by) ?? '');
      if (text !== undefined && sought !== '' && text.length * Math.max(1, instead.length) <= MAX_TEXT * 100) {
        text = text.replaceAll(sought, () => instead);
      }
    }
    return text;
  }

  #regexReplaced(node: Node): string | undefined {
    const names = [...node.inputs.keys()];
    const pattern = names.find((name) => /regex|pattern/i.test(name));
    const by = names.find((name) => /^replace/i.test(name));
    const main = this.#textNames(node).find((name) => name !== pattern && name !== by);
    const text = main === undefined ? undefined : this.field(node, main);
    const most = Number(literal(node, 'count') ?? 0);
    return text === undefined || pattern === undefined
      ? text
      : this.#substituted(text, this.field(node, pattern) ?? '', this.field(node, by ?? '') ?? '', node, most);
  }

  #functionReplaced(node: Node): string | undefined {
    const [text, find = '', by = ''] = ['text_a', 'text_b', 'text_c'].map((name) => this.field(node, name));
    const pattern = find.length > 1 && find.startsWith('/') && find.endsWith('/') ? find.slice(1, -1) : null;
    const made =
      text === undefined
        ? undefined
        : pattern === null
          ? find === ''
            ? text
            : text.replaceAll(find, () => by)
          : this.#substituted(text, pattern, by, node, 0);
    return this.#changed(node, made);
  }

  #regexExtracted(node: Node): string | undefined {
    const pattern = [...node.inputs.keys()].find((name) => /regex|pattern/i.test(name));
    const main = this.#textNames(node).find((name) => name !== pattern);
    const text = main === undefined ? undefined : this.field(node, main);
    const expression =
      text === undefined || !pattern ? null : safeExpression(this.field(node, pattern) ?? '', text, node);
    if (!expression || text === undefined) {
      return undefined;
    }
    const mode = word(node, 'mode').toLowerCase();
    const group = Number(literal(node, 'group_index') ?? 1);
    const found = [...text.matchAll(expression)]
      .slice(0, mode.startsWith('all') ? MAX_WALK : 1)
      .map((match) => (mode.endsWith('match') || mode.endsWith('matches') ? match[0] : (match.at(group) ?? '')));
    return found.join('\n');
  }

  /**
   * Python's `re.sub`, for patterns that mean the same here; otherwise the text stays as it is and counts as partly read.
   * @param most replacements; 0 = all
   */
  #substituted(text: string, pattern: string, by: string, node: Node, most: number): string {
    const expression = safeExpression(pattern, text, node);
    if (!expression) {
      this.isPartial = true;
      return text;
    }
    return substituted(text, expression, by, most);
  }

  /** Trimming, cutting, letters' case. */
  #changed(node: Node, text: string | undefined): string | undefined {
    const { type } = node;
    if (text === undefined) {
      return undefined;
    }
    const mode = (word(node, 'mode') || word(node, 'operation')).toLowerCase();
    if (/^CR Text Operation$/.test(type)) {
      return operated(text, mode);
    }
    if (/trim|stripwhitespace|strip_/i.test(type)) {
      return mode === 'left' ? text.trimStart() : mode === 'right' ? text.trimEnd() : text.trim();
    }
    if (/caseconverter|lowercase|uppercase/i.test(type)) {
      return cased(text, mode === '' ? type.toLowerCase() : mode);
    }
    if (/substring/i.test(type)) {
      const [start, end] = ['start', 'end'].map((name) => Number(this.routes.value(node, name) ?? NaN));
      return text.slice(Number.isNaN(start) ? 0 : start, Number.isNaN(end) ? undefined : end);
    }
    if (type === 'StringConstantMultiline' && literal(node, 'strip_newlines') === true) {
      return text.replace(/\s*\n\s*/g, ' ').trim();
    }
    return type === 'StringFunction|pysssss' && literal(node, 'tidy_tags') === 'yes'
      ? text
          .replace(/\s{2,}/g, ' ')
          .replaceAll(' ,', ',')
          .replace(/,{2,}/g, ',')
          .trim()
      : text;
  }
}

/** `populated_text` is the result of `wildcard_text`; a prompt is more informative than a caption. */
export function wordsRank(name: string): number {
  const at = WORDS_ORDER.indexOf(name.toLowerCase());
  return at < 0 ? WORDS_ORDER.length : at;
}

/** What a node displayed when it ran, which only some nodes store. */
function cachedText(node: Node): string | undefined {
  return KEPT.map((name) => cached(literal(node, name))).find(Boolean);
}

function cached(value: unknown): string | undefined {
  const first: unknown = Array.isArray(value) ? value[0] : value;
  const inner: unknown = Array.isArray(first) ? first[0] : first;
  return typeof inner === 'string' ? inner : textOf(own(inner, 'content'));
}

/** Names of one row, in its order: text_a, text_b; string1, string2; the longest such row. */
function series(names: readonly string[]): string[] {
  const rows = new Map<string, string[]>();
  for (const name of names) {
    const stem = name.replace(/[ _.]?(\d+|[a-z])$/i, (ending, mark: string) =>
      /\d/.test(mark) || /^[ _]/.test(ending) ? '' : ending,
    );
    rows.set(stem, [...(rows.get(stem) ?? []), name]);
  }
  const longest = [...rows.values()].reduce<string[]>((a, b) => (b.length > a.length ? b : a), []);
  return longest.sort(naturally);
}

function naturally(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

function digits(name: string): string {
  return name.replace(/\D/g, '');
}

function hasAll(node: Node, ...patterns: RegExp[]): boolean {
  return patterns.every((pattern) => [...node.inputs.keys()].some((name) => pattern.test(name)));
}

function hasImage(node: Node): boolean {
  return [...node.inputs].some(([name, input]) => 'link' in input && /^(image|images|pixels|video)\d*$/i.test(name));
}

function hasSeveralOutputs({ type, outputs }: Node): boolean {
  return outputs.length > 1 || /^(text string|ttn text\dbox.*)$/i.test(type);
}

/** Nodes that give several texts one after the other, rather than one. */
function isList(node: Node | undefined): boolean {
  return (
    node !== undefined &&
    /^(text list|appendstringstolist|cr simple prompt list|.*make.?(text|string).?list.*)$/i.test(node.type)
  );
}

function sideNamed(output: string | undefined): Side | null {
  return output === undefined
    ? null
    : ofSide('negative').test(output)
      ? 'negative'
      : ofSide('positive').test(output)
        ? 'positive'
        : null;
}
