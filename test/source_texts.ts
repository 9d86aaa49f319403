/** Finds texts in the sources: those that go through `t`, and those that read like text for people. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'svelte/compiler';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));

export interface SourceTexts {
  file: string;
  /** The keys passed to `t`; null for a call whose key is not a literal. */
  asked: (string | null)[];
  /** Other texts that read like words, with values as `{0}`, `{1}`, …, and each branch of a condition separately. */
  prose: string[];
}

interface Node {
  type: string;
  [key: string]: unknown;
}

/**
 * Texts that only programmers see; names of graphs and keys; bytes of other files; and the doors' answers to programs, which are English
 * (`Refusal`).
 */
const UNSEEN_CALLS =
  /^(?:Refusal|LayerWriter|CausalWriter|LtxWriter|OnnxWriter|encode|assert|is|fetch|querySelector(?:All)?|matches|closest|getElementById|startsWith|endsWith|includes|test|split|join|replaceAll|replace|addEventListener|removeEventListener|getContext|matchMedia|has|get|set|hasOwn|Error|TypeError|RangeError|SyntaxError|AggregateError|DOMException|RegExp|Worker|URL|toLocaleString|getItem|setItem|log|warn|error|info|postMessage|openStore|setAttribute|createElement|readKept|keep)$/;

/** Properties of components that nobody reads. */
const UNSEEN_PROPERTIES = /^(?:name|icon|testid|id|href|accept|control|class)$/;

/** Attributes of elements that people read or hear. */
const SEEN_ATTRIBUTES =
  /^(?:aria-label|aria-description|aria-valuetext|aria-roledescription|alt|title|placeholder|label)$/;

/** Files whose errors are answers to programs, over HTTP and between pages: the doors speak English. */
const DOORS = /^(?:src\/jobs\/(?:routes|channel|engine_desk|engine_questions)|workers\/service\.worker)\.ts$/;

/**
 * Read by programs: markup, styles, media queries, headers with a MIME type, stream events, code. Each has a mark that no sentence has.
 */
const FOR_PROGRAMS = [
  /^<(?:[!?]|[\w:]+ [\w:]+=")/,
  /^\d+px |var\(--|\bcolor-mix\(|monospace|sans-serif/,
  /^\([a-z-]+: [a-z-]+\)$/,
  /^(?:\{\d+\}|[a-z]+\/[a-z.+-]+); charset=|^Bearer |^(?:inline|attachment); |^bytes \{/,
  /^(?:event|retry|data|id): |^: .*\n\n$/,
  /^\/\/ @|^const \{\d+\}|[;{]\n|=> \{/,
];

const UNSEEN_TYPES = /^TS(?!AsExpression|SatisfiesExpression|NonNullExpression|TypeAssertion)/;

export function sourceFiles(folders: readonly string[]): string[] {
  return folders
    .flatMap((folder) =>
      readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile() && /\.(?:ts|svelte)$/.test(entry.name))
        .map((entry) => join(entry.parentPath, entry.name).slice(ROOT.length).replaceAll('\\', '/')),
    )
    .sort();
}

export function textsOf(file: string, source = readFileSync(join(ROOT, file), 'utf8')): SourceTexts {
  const isComponent = file.endsWith('.svelte');
  const tree = parse(
    isComponent ? source : `<script lang="ts">\n${source.replaceAll('</script', '<\\/script')}\n</script>`,
    { modern: true },
  );
  const found: SourceTexts = { file, asked: [], prose: [] };
  visit(tree as unknown as Node, found, isComponent);
  const prose = DOORS.test(file) ? [] : found.prose.filter((text) => !FOR_PROGRAMS.some((sign) => sign.test(text)));
  return { ...found, prose: [...new Set(prose)] };
}

function visit(node: Node, found: SourceTexts, isComponent: boolean): void {
  if (node.type === 'CallExpression' && nameOf(node.callee as Node) === 't') {
    const [key, ...values] = node.arguments as Node[];
    found.asked.push(...keysOf(key));
    values.forEach((value) => visit(value, found, isComponent));
    return;
  }
  if (UNSEEN_TYPES.test(node.type) || isUnseen(node)) {
    // A listener's texts are shown, even if the call it is passed to shows nothing.
    const given = (node.arguments as Node[] | undefined) ?? [];
    given.filter(({ type }) => /Function/.test(type)).forEach((one) => visit(one, found, isComponent));
    return;
  }
  if (node.type === 'Text') {
    add(String(node.data).replace(/\s+/g, ' ').trim(), found, /\p{L}{2}/u);
    return;
  }
  if (node.type === 'Literal' || node.type === 'TemplateLiteral' || isSum(node)) {
    const reads = isComponent ? /\p{L} \p{L}|^[A-Z][a-z]+(?:[ .…:,]|$)/u : /\p{L}[,:;]? \p{L}|^[A-Z][a-z]+(?:\.| …)$/u;
    variantsOf(node).forEach((text) => add(text, found, reads));
    inside(node).forEach((one) => visit(one, found, isComponent));
    return;
  }
  childrenOf(node).forEach((child) => visit(child, found, isComponent));
}

/** The literal keys that an argument can be: `t(isPaused ? 'Go on' : 'Pause')`. */
function keysOf(node: Node): (string | null)[] {
  if (node.type === 'Literal' && typeof node.value === 'string') {
    return [node.value];
  }
  if (node.type === 'ConditionalExpression') {
    return [...keysOf(node.consequent as Node), ...keysOf(node.alternate as Node)];
  }
  return [null];
}

function isUnseen(node: Node): boolean {
  switch (node.type) {
    case 'ImportDeclaration':
    case 'ImportExpression':
    case 'ExportAllDeclaration':
    case 'StyleSheet':
    case 'Comment':
    case 'TaggedTemplateExpression':
    case 'ExpressionStatement':
      return node.type !== 'ExpressionStatement' || 'directive' in node;
    case 'Attribute':
      return isSeenNowhere(node);
    case 'StyleDirective':
      return true;
    case 'ObjectExpression':
      return isPair(node);
    case 'BinaryExpression':
      return /^[!=]==$/.test(String(node.operator)) && (node.right as Node).type === 'Literal';
    case 'CallExpression':
    case 'NewExpression':
      return UNSEEN_CALLS.test(nameOf(node.callee as Node) ?? '') && !holdsPlaces(node);
    default:
      return false;
  }
}

/** `{ en: …, de: … }` says it in both languages itself. */
function isPair(node: Node): boolean {
  const keys = (node.properties as Node[]).map(({ key }) => nameOf((key ?? {}) as Node));
  return keys.sort().join() === 'de,en';
}

/** A call such as `words.join(…)` or `texts.get(…)` whose own object holds texts is looked into. */
function holdsPlaces(node: Node): boolean {
  const callee = node.callee as Node;
  return callee.type === 'MemberExpression' && (callee.object as Node).type !== 'Identifier';
}

function isSeenNowhere(attribute: Node): boolean {
  const name = String(attribute.name);
  return attribute.ofComponent === true
    ? UNSEEN_PROPERTIES.test(name)
    : !SEEN_ATTRIBUTES.test(name) && !/^on/.test(name);
}

function nameOf(callee: Node): string | null {
  if (callee.type === 'Identifier') {
    return String(callee.name);
  }
  return callee.type === 'MemberExpression' ? nameOf(callee.property as Node) : null;
}

function isSum(node: Node): boolean {
  return (
    node.type === 'BinaryExpression' &&
    node.operator === '+' &&
    [node.left, node.right].some((side) => formsOf(side as Node)?.some((form) => form !== PLACE))
  );
}

/** Every form a text can take: branches of conditions spelled out, other values as placeholders. */
function variantsOf(node: Node): string[] {
  return formsOf(node)?.map(numbered) ?? [];
}

const PLACE = '\u0000';

function numbered(text: string): string {
  let count = 0;
  return text.replaceAll(PLACE, () => `{${count++}}`);
}

function formsOf(node: Node): string[] | null {
  if (node.type === 'Literal') {
    return typeof node.value === 'string' ? [node.value] : null;
  }
  if (node.type === 'TemplateLiteral') {
    const quasis = node.quasis as { value: { cooked: string } }[];
    const expressions = node.expressions as Node[];
    return quasis.reduce<string[]>(
      (forms, { value }, index) => {
        const before = index === 0 ? [''] : (formsOf(expressions[index - 1]) ?? [PLACE]);
        return forms.flatMap((form) => before.map((one) => form + one + value.cooked));
      },
      [''],
    );
  }
  if (node.type === 'ConditionalExpression') {
    const branches = [node.consequent, node.alternate].map((branch) => formsOf(branch as Node) ?? [PLACE]);
    return branches.every(([form]) => form === PLACE) ? null : branches.flat();
  }
  if (isSum(node)) {
    const [left, right] = [node.left, node.right].map((side) => formsOf(side as Node) ?? [PLACE]);
    return left.flatMap((one) => right.map((other) => one + other));
  }
  return null;
}

/** Expressions within a text that may hold texts of their own. */
function inside(node: Node): Node[] {
  const expressions = node.type === 'TemplateLiteral' ? (node.expressions as Node[]) : [];
  return expressions.filter((one) => formsOf(one) === null);
}

function childrenOf(node: Node): Node[] {
  const isComponent = node.type === 'Component' || node.type === 'SvelteComponent';
  return Object.entries(node).flatMap(([key, value]) => {
    if (key === 'key' && node.computed !== true && node.type === 'Property') {
      return [];
    }
    if (/^(?:metadata|parent|css|comments|leadingComments|trailingComments|typeAnnotation|returnType|loc)$/.test(key)) {
      return [];
    }
    const nodes = (Array.isArray(value) ? value : [value]).filter(
      (one): one is Node => typeof one === 'object' && one !== null && typeof (one as Node).type === 'string',
    );
    return isComponent && key === 'attributes' ? nodes.map((one) => ({ ...one, ofComponent: true })) : nodes;
  });
}

function add(text: string, found: SourceTexts, reads: RegExp): void {
  if (/\p{L}{2}/u.test(text) && reads.test(text.replace(/\{\d+\}/g, 'x'))) {
    found.prose.push(text);
  }
}
