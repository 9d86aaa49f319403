/** Sketches from a language model: its instructions, extracting the code from its reply, and asking it for a fix. */
import type { Sketch } from './media.ts';

export interface ExtractedSketch {
  sketch: Sketch;
  /** Whether the reply ended in the middle of the code, which then hardly runs; a higher limit or a second try helps. */
  isCutOff: boolean;
}

export interface ChatMessage {
  role: 'system' | 'user';
  content: string;
}

/** The sandbox's rules for code, as instructions for a language model. */
export const SKETCH_RULES: Record<Sketch['language'], string> = {
  p5: [
    'You write sketches for p5.js 2.3 in plain JavaScript, in global mode: function setup() and function draw().',
    'Answer with one complete sketch in one ```js block and nothing else: no HTML, no imports.',
    'There is no network and there are no files: draw everything with code.',
    'Fill the window: createCanvas(windowWidth, windowHeight).',
    'p5.js 2 has no preload(), no curveVertex(), no quadraticVertex() and no loadSound(); it has splineVertex(), and setup may be async.',
    'Give no variable or function of yours the name of one of p5.js, such as color, log or map.',
    'Every loop must end; animate with frameCount or millis() in draw().',
  ].join('\n'),
  tonejs: [
    'You write music for Tone.js 15 in plain JavaScript; Tone is a global.',
    'Answer with one complete program in one ```js block and nothing else: no HTML, no imports.',
    'There is no network and there are no samples: make every sound with synthesizers, noise and effects.',
    'Start at once, without waiting for a click: end with Tone.getTransport().start().',
    'Use Tone.getTransport() and Tone.getDestination(), not Tone.Transport and Tone.Master.',
    'Keep it quiet enough not to clip, for example with volumes of -12 dB.',
    'Every loop must end; let time pass with Tone.Loop, Tone.Sequence and Tone.Part.',
  ].join('\n'),
};

/**
 * The messages that ask a language model to fix a sketch.
 * @param problem a sentence on what went wrong, and the line of the source (from 1) if known
 */
export function repairMessages(sketch: Sketch, problem: { message: string; line: number | null }): ChatMessage[] {
  const line = problem.line === null ? undefined : sketch.source.split('\n')[problem.line - 1]?.trim();
  const where = line ? ` in line ${problem.line}, which is: ${line}` : '';
  return [
    { role: 'system', content: SKETCH_RULES[sketch.language] },
    {
      role: 'user',
      content: `This sketch fails${where}\nThe error is: ${problem.message}\n\n\`\`\`js\n${sketch.source.trimEnd()}\n\`\`\`\n\nMend it, change nothing else, and answer with the whole sketch.`,
    },
  ];
}

/**
 * Extracts the code from a reply, whether it is fenced, surrounded by prose, inside a page of HTML, or in several pieces.
 * @param language the one asked for; without it, guessed from the code
 * @returns null if there is no code
 */
export function extractSketch(reply: string, language?: Sketch['language']): ExtractedSketch | null {
  const said = reply.replace(/\r\n?/g, '\n').replace(/<think(ing)?>[\s\S]*?(<\/think(ing)?>|$)/gi, '');
  const found = fromBlocks(blocksOf(said)) ?? fromWords(said);
  const source = dedented(found?.code ?? '').trim();
  if (found === null || source === '') {
    return null;
  }
  return {
    sketch: { language: language ?? languageOf(source), source: `${source}\n` },
    isCutOff: found.isCutOff || hasOpenBrackets(source),
  };
}

/** The library that code is written for. Drawn music counts as drawing, since both libraries are available to it. */
export function languageOf(source: string): Sketch['language'] {
  const draws = /\bcreateCanvas\s*\(|\bnew\s+p5\b|\bfunction\s+(setup|draw)\s*\(/.test(source);
  return !draws && /\bTone\b/.test(source) ? 'tonejs' : 'p5';
}

interface Found {
  code: string;
  isCutOff: boolean;
}

interface Block {
  /** The info string of the opening fence, in lower case. */
  label: string;
  text: string;
  isClosed: boolean;
}

const CODE_LABELS =
  /^(|js|javascript|jsx|mjs|ts|typescript|p5|p5js|p5\.js|tone|tonejs|tone\.js|html|html5|code|processing|sketch\.js)$/;

function blocksOf(text: string): Block[] {
  const blocks: Block[] = [];
  let open: { fence: string; label: string; lines: string[] } | null = null;
  for (const line of text.split('\n')) {
    const [, fence, label] = /^\s*(`{3,}|~{3,})\s*([^\s`]*)/.exec(line) ?? [];
    if (open === null && fence !== undefined) {
      open = { fence, label: label.toLowerCase(), lines: [] };
    } else if (open !== null && fence?.startsWith(open.fence) && line.trim() === fence) {
      blocks.push({ label: open.label, text: open.lines.join('\n'), isClosed: true });
      open = null;
    } else {
      open?.lines.push(line);
    }
  }
  if (open !== null) {
    blocks.push({ label: open.label, text: open.lines.join('\n'), isClosed: false });
  }
  return blocks.filter(({ text: inside }) => inside.trim() !== '');
}

/** The longest block that is a whole sketch, or else all pieces of code in order. */
function fromBlocks(blocks: Block[]): Found | null {
  const pieces = blocks
    .filter(({ label }) => CODE_LABELS.test(label))
    .map(({ text, isClosed }): Found | null =>
      isPage(text) ? fromPage(text, isClosed) : { code: dedented(text).trim(), isCutOff: !isClosed },
    )
    .filter((one) => one !== null && one.code !== '') as Found[];
  const whole = pieces.filter(({ code }) => isWhole(code)).sort((a, b) => b.code.length - a.code.length)[0];
  if (whole) {
    return whole;
  }
  if (pieces.length === 0) {
    return null;
  }
  return { code: pieces.map(({ code }) => code).join('\n\n'), isCutOff: pieces.some(({ isCutOff }) => isCutOff) };
}

function isWhole(code: string): boolean {
  if (/\bnew\s+p5\b/.test(code)) {
    return true;
  }
  const parts = [/\bfunction\s+setup\s*\(/, /\bfunction\s+draw\s*\(/].filter((part) => part.test(code)).length;
  return parts === 2 || (parts === 0 && /\bTone\s*\.[\s\S]*\b(start|triggerAttack|triggerAttackRelease)\b/.test(code));
}

function isPage(text: string): boolean {
  return /<script\b|<!doctype html|<html\b/i.test(text);
}

/** The scripts of a page. A first line of code recreates its other content, which the scripts may look for. */
function fromPage(text: string, isClosed: boolean): Found | null {
  const scripts: string[] = [];
  let isCutOff = !isClosed;
  const rest = text.replace(
    /<script\b([^>]*)>([\s\S]*?)(<\/script\s*>|$)/gi,
    (_, attributes: string, code: string, end: string) => {
      const isCode =
        !/\bsrc\s*=/i.test(attributes) &&
        !/\btype\s*=\s*["']?(application\/json|importmap|text\/(?!javascript))/i.test(attributes);
      if (isCode && code.trim() !== '') {
        scripts.push(dedented(code).trim());
        isCutOff ||= end === '';
      }
      return '';
    },
  );
  if (scripts.length === 0) {
    return null;
  }
  const body =
    /<body\b[^>]*>([\s\S]*?)(<\/body\s*>|$)/i.exec(rest)?.[1] ?? rest.replace(/<head\b[\s\S]*?<\/head\s*>/i, '');
  const shown = body
    .replace(/<!doctype[^>]*>|<\/?(html|body)\b[^>]*>|<!--[\s\S]*?-->|<main\b[^>]*>\s*<\/main\s*>/gi, '')
    .replace(/\s*\n\s*/g, ' ')
    .trim();
  const styles = [...rest.matchAll(/<style\b[\s\S]*?<\/style\s*>/gi)].map(([style]) => style.replace(/\s*\n\s*/g, ' '));
  const page = /<\w/.test(shown)
    ? [
        `document.body.insertAdjacentHTML('beforeend', ${JSON.stringify([...styles.filter((style) => !shown.includes(style)), shown].join(''))});`,
      ]
    : [];
  return { code: [...page, ...scripts].join('\n\n'), isCutOff };
}

/** Unfenced code: from the first line that looks like code to the last. */
function fromWords(text: string): Found | null {
  if (isPage(text)) {
    return fromPage(text, true);
  }
  const lines = text.split('\n');
  const first = lines.findIndex(looksLikeCode);
  const last = lines.findLastIndex(looksLikeCode);
  const code = lines.slice(first, last + 1).join('\n');
  // Prose may end in a semicolon, too.
  return first >= 0 && /\b(function|const|let|var|new|Tone|=>)\b|\w\(.*\)\s*;/.test(code)
    ? { code, isCutOff: false }
    : null;
}

function looksLikeCode(line: string): boolean {
  const text = line.trim();
  return (
    /^(\/\/|\/\*|\*\/|["']use strict["'])/.test(text) ||
    /^[})\]]+[;,)]*$/.test(text) ||
    /^(const|let|var)\s+[\w$[{].*(=|;|,)\s*/.test(text) ||
    /^(export\s+|default\s+|async\s+)*function\b\s*\*?\s*[\w$]*\s*\(/.test(text) ||
    /^class\s+[\w$]+.*\{/.test(text) ||
    /^import\s.*['"]/.test(text) ||
    /^(for|if|while|switch)\s*\(.*[{;)]$/.test(text) ||
    /^(await\s+|new\s+|return\s+)?[\w$.]+\s*(\(.*|[-+*/]?=[^=].*)[;{(,]$/.test(text) ||
    /^(await\s+)?(Tone|[\w$]+)(\.[\w$]+)*\(.*\)$/.test(text)
  );
}

/** Removes the indentation common to all lines. */
function dedented(text: string): string {
  const lines = text.replace(/^\s*\n/, '').split('\n');
  const indents = lines.filter((line) => line.trim() !== '').map((line) => /^[ \t]*/.exec(line)?.[0] ?? '');
  const shared = indents.reduce((a, b) => (b.startsWith(a) ? a : a.startsWith(b) ? b : ''), indents[0] ?? '');
  return lines.map((line) => line.slice(line.startsWith(shared) ? shared.length : 0)).join('\n');
}

/** A comment, a string, a regular expression (told from a division by what precedes it), a bracket, or any other character. */
const CODE_TOKEN =
  /\/\/.*|\/\*[\s\S]*?(?:\*\/|$)|"(?:\\[\s\S]|[^"\\\n])*"?|'(?:\\[\s\S]|[^'\\\n])*'?|(?<=(?:^|[=(,:;!&|?{}[+\n])\s*)\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/|[\s\S]/y;
const TEMPLATE_TOKEN = /\\[\s\S]|\$\{|[\s\S]/y;

/** Whether brackets, templates or comments are left open. */
function hasOpenBrackets(source: string): boolean {
  const open: string[] = [];
  let at = 0;
  let last = '';
  while (at < source.length) {
    const inTemplate = open.at(-1) === '`';
    const tokens = inTemplate ? TEMPLATE_TOKEN : CODE_TOKEN;
    tokens.lastIndex = at;
    const [token] = tokens.exec(source) ?? [source.slice(at)];
    if (token === '`' && inTemplate) {
      open.pop();
    } else if (token === '`' || token === '${' || (!inTemplate && /^[([{]$/.test(token))) {
      open.push(token);
    } else if (!inTemplate && /^[)\]}]$/.test(token)) {
      open.pop();
    }
    at += token.length;
    last = token;
  }
  return open.length > 0 || (last.startsWith('/*') && !last.endsWith('*/'));
}
