/**
 * Prepares a person's or a model's code for the frame: it is parsed first, so that syntax errors are shown with their line before anything
 * starts, then guarded, so that code that never returns throws instead. Lines stay the same, and columns can be mapped back.
 */
import { parse, type AnyNode, type ImportDeclaration, type Node, type Program } from 'acorn';
import type { Sketch } from '../core/media.ts';
import { GUARD } from './limits.ts';
import type { Library } from './protocol.ts';

/** A position in the person's own source; line and column from 1. */
export interface Place {
  line: number;
  column: number;
}

/** The source cannot be run; `message` says why in one sentence, `place` where. */
export class SourceProblem extends Error {
  readonly place: Place;

  constructor(message: string, place: Place) {
    super(message);
    this.name = 'SourceProblem';
    this.place = place;
  }
}

export interface PreparedSketch {
  code: string;
  /** Modules may await and import at their top; only scripts make their functions global, as p5 expects. */
  isModule: boolean;
  libraries: Library[];
  /** Whether p5 compiles shaders, which may block for seconds. */
  hasShaders: boolean;
  /** Positions of declarations that become properties of the global object. */
  globals: ReadonlyMap<string, Place>;
  /** The place in the source of a place in `code`. */
  placeOf(line: number, column: number): Place;
}

interface Edit {
  start: number;
  end: number;
  text: string;
}

const LIBRARY_NAMES: Record<Library, string> = { p5: 'p5', tone: 'Tone' };
/** A bare module name, or a CDN URL with that name in its path. */
const LIBRARY_SOURCES: Record<Library, RegExp> = {
  p5: /(^|\/)p5(\.min)?(\.js)?(@|\/|$)/i,
  tone: /(^|\/)tone(\.js)?(@|\/|$)/i,
};

/** @throws SourceProblem if it is not JavaScript, or imports something the sandbox cannot load */
export function prepare({ language, source }: Sketch): PreparedSketch {
  const { program, isModule } = parsed(source);
  const names = new Set<string>();
  const edits: Edit[] = [];
  try {
    walk(program, (node) => {
      if (node.type === 'Identifier') {
        names.add(node.name);
      }
      return guards(node, edits);
    });
  } catch (error) {
    throw error instanceof RangeError ? tooDeep() : error;
  }
  for (const statement of program.body) {
    if (statement.type === 'ImportDeclaration') {
      edits.push(replacement(statement, source));
    }
  }
  // A stable sort: insertions at the same position keep their order.
  edits.sort((a, b) => a.start - b.start || a.end - b.end);
  const lineStarts = startsOfLines(source);
  return {
    code: apply(source, edits),
    isModule,
    libraries: (['p5', 'tone'] as const).filter(
      (library) =>
        names.has(LIBRARY_NAMES[library]) || library === (language === 'p5' ? 'p5' : 'tone') || draws(library, names),
    ),
    hasShaders: ['WEBGL', 'WEBGL2', 'WEBGPU'].some((name) => names.has(name)),
    globals: isModule ? new Map() : globalsOf(program),
    placeOf: (line, column) => ({ line, column: originalColumn(edits, lineStarts, line, column) }),
  };
}

/** Whether code for Tone.js draws with p5's functions without naming p5. */
function draws(library: Library, names: ReadonlySet<string>): boolean {
  return library === 'p5' && names.has('createCanvas');
}

function parsed(source: string): { program: Program; isModule: boolean } {
  try {
    return {
      program: parse(source, { ecmaVersion: 'latest', sourceType: 'script', locations: true }),
      isModule: false,
    };
  } catch (scriptError) {
    try {
      return {
        program: parse(source, { ecmaVersion: 'latest', sourceType: 'module', locations: true }),
        isModule: true,
      };
    } catch (moduleError) {
      // Top-level imports or awaits mean a module.
      throw problemOf(/^\s*(import|export)\b/m.test(source) ? moduleError : scriptError);
    }
  }
}

function problemOf(error: unknown): SourceProblem {
  const { message, loc } = error as SyntaxError & { loc?: { line: number; column: number } };
  if (!loc || message.startsWith('Not enough stack space')) {
    return tooDeep();
  }
  return new SourceProblem(`${message.replace(/ \(\d+:\d+\)$/, '')}.`, { line: loc.line, column: loc.column + 1 });
}

/** Walking a tree recurses once per level of nesting, so deep nesting would overflow the stack. */
function tooDeep(): SourceProblem {
  return new SourceProblem('The code is nested too deeply to be read.', { line: 1, column: 1 });
}

/** Calls `enter` on each node from the outside in; the returned function is called after the node's children. */
function walk(node: AnyNode, enter: (node: AnyNode) => (() => void) | null): void {
  const leave = enter(node);
  for (const child of Object.values(node) as unknown[]) {
    for (const one of Array.isArray(child) ? (child as unknown[]) : [child]) {
      if (isNode(one)) {
        walk(one, enter);
      }
    }
  }
  leave?.();
}

function isNode(value: unknown): value is AnyNode {
  return typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string';
}

/** Guards loops, and also functions, since some call themselves or one another endlessly through promises. */
function guards(node: AnyNode, edits: Edit[]): (() => void) | null {
  const insert = (at: number, text: string) => edits.push({ start: at, end: at, text });
  const wrap = (inner: Node, before: string, after: string) => {
    insert(inner.start, before);
    return () => {
      insert(inner.end, after);
    };
  };
  const call = `${GUARD}(${node.loc?.start.line ?? 1})`;
  switch (node.type) {
    case 'ForStatement':
    case 'ForInStatement':
    case 'ForOfStatement':
    case 'WhileStatement':
    case 'DoWhileStatement': {
      if (node.body.type !== 'BlockStatement') {
        return wrap(node.body, `{${call};`, '}');
      }
      insert(node.body.start + 1, `${call};`);
      return null;
    }
    case 'FunctionDeclaration':
    case 'FunctionExpression':
    case 'ArrowFunctionExpression': {
      if (node.body.type !== 'BlockStatement') {
        return wrap(node.body, `(${call},`, ')');
      }
      // "use strict" has to stay the first statement.
      const directive = node.body.body.findLast((one) => 'directive' in one && one.directive !== undefined);
      insert(directive?.end ?? node.body.start + 1, directive ? `;${call};` : `${call};`);
      return null;
    }
    default:
      return null;
  }
}

/** Turns an import of an already loaded library into a declaration on the same lines. */
function replacement(node: ImportDeclaration, source: string): Edit {
  const from = String(node.source.value);
  const library = (['p5', 'tone'] as const).find((one) => LIBRARY_SOURCES[one].test(from));
  if (!library) {
    throw new SourceProblem(`It imports "${from}", which cannot be loaded: a sketch has p5 and Tone, and no network.`, {
      line: node.loc?.start.line ?? 1,
      column: (node.loc?.start.column ?? 0) + 1,
    });
  }
  const whole = `globalThis.${LIBRARY_NAMES[library]}`;
  const declared = node.specifiers.flatMap((specifier) => {
    const name = specifier.local.name;
    if (specifier.type !== 'ImportSpecifier') {
      // `const Tone = globalThis.Tone` at the top of a module shadows the global with itself.
      return [`${name}=${whole}`];
    }
    const imported =
      specifier.imported.type === 'Identifier' ? specifier.imported.name : String(specifier.imported.value);
    return [`${name}=${imported === 'default' ? whole : `${whole}[${JSON.stringify(imported)}]`}`];
  });
  const lines = source.slice(node.start, node.end).split('\n').length - 1;
  return {
    start: node.start,
    end: node.end,
    text: `${declared.length > 0 ? `const ${declared.join()};` : ''}${'\n'.repeat(lines)}`,
  };
}

/** Top-level `var`s and functions become properties of the global object, which p5 cannot replace if it uses the same name. */
function globalsOf(program: Program): Map<string, Place> {
  const found = new Map<string, Place>();
  for (const statement of program.body) {
    const declared =
      statement.type === 'FunctionDeclaration'
        ? [statement.id]
        : statement.type === 'VariableDeclaration' && statement.kind === 'var'
          ? statement.declarations.map(({ id }) => id)
          : [];
    for (const id of declared) {
      if (id.type === 'Identifier' && id.loc) {
        found.set(id.name, { line: id.loc.start.line, column: id.loc.start.column + 1 });
      }
    }
  }
  return found;
}

function apply(source: string, edits: readonly Edit[]): string {
  const parts: string[] = [];
  let done = 0;
  for (const { start, end, text } of edits) {
    parts.push(source.slice(done, start), text);
    done = end;
  }
  return [...parts, source.slice(done)].join('');
}

function startsOfLines(source: string): number[] {
  return [0, ...[...source.matchAll(/\r\n?|\n|\u2028|\u2029/g)].map(({ index, 0: ending }) => index + ending.length)];
}

/** Subtracts what was inserted before it on its line. */
function originalColumn(edits: readonly Edit[], lineStarts: readonly number[], line: number, column: number): number {
  const from = lineStarts[line - 1];
  if (from === undefined) {
    return column;
  }
  const until = lineStarts[line] ?? Infinity;
  let shift = 0;
  for (const { start, end, text } of edits) {
    if (start < from || start >= until) {
      continue;
    }
    const at = start - from + 1 + shift;
    if (at >= column) {
      break;
    }
    // Within what was inserted: the place it was inserted at.
    shift += Math.min(text.length, column - at) - (end - start);
  }
  return Math.max(1, column - shift);
}
