/** Sketches before they run: extracted from replies, guarded, mapped back to the person's own lines; and their recorded sound. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { runInThisContext } from 'node:vm';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fileStem, readSketch } from '../src/app/sketches/sketch_file.ts';
import { parseStarter } from '../src/app/sketches/starters.ts';
import { wav } from '../src/app/sketches/wav.ts';
import { extractSketch, languageOf, repairMessages } from '../src/core/sketch.ts';
import { GUARD } from '../src/sandbox/limits.ts';
import { prepare, SourceProblem } from '../src/sandbox/preparation.ts';

const CIRCLE = `function setup() {
  createCanvas(400, 400);
}

function draw() {
  circle(200, 200, frameCount % 100);
}
`;
const TONE = `const synth = new Tone.Synth().toDestination();
synth.triggerAttackRelease('C4', '8n');
Tone.getTransport().start();
`;
const fenced = (code: string, label = 'js') => `\`\`\`${label}\n${code}\`\`\``;
const indented = (code: string, by: string) => code.replace(/^(?=.)/gm, by);

describe('code in a reply', () => {
  const p5 = { sketch: { language: 'p5', source: CIRCLE }, isCutOff: false };
  const tone = { sketch: { language: 'tonejs', source: TONE }, isCutOff: false };

  test.each<[string, string, typeof p5 | typeof tone | null]>([
    ['alone', CIRCLE, p5],
    ['in a fence', fenced(CIRCLE), p5],
    ['in a fence without a label', fenced(CIRCLE, ''), p5],
    ['in a fence of tildes', `~~~javascript\n${CIRCLE}~~~`, p5],
    ['in a longer fence', `\`\`\`\`js\n${CIRCLE}\`\`\`\``, p5],
    ['in a fence that names a file', fenced(CIRCLE, 'sketch.js'), p5],
    ['with words around it', `Sure! Here is your sketch:\n\n${fenced(CIRCLE)}\n\nIt draws a circle; enjoy.`, p5],
    ['in an indented fence of a list', `1. The code:\n\n${indented(fenced(CIRCLE), '   ')}\n\n2. Press Run.`, p5],
    ['with Windows line ends', `Here:\r\n${fenced(CIRCLE).replaceAll('\n', '\r\n')}\r\n`, p5],
    ['after thoughts', `<think>Maybe \`\`\`js\nfoo()\n\`\`\`?</think>\n${fenced(CIRCLE)}`, p5],
    [
      'without a fence, with words around it',
      `Here is the sketch you asked for:\n\n${CIRCLE}\nLet me know if you like it!`,
      p5,
    ],
    ['beside a style sheet', `${fenced('body { margin: 0; }\n', 'css')}\n${fenced(CIRCLE)}`, p5],
    ['beside a command', `${fenced('npm install p5\n', 'bash')}\n${fenced(CIRCLE)}`, p5],
    ['before a snippet that changes it', `${fenced(CIRCLE)}\nFor a square:\n${fenced('square(200, 200, 50);\n')}`, p5],
    [
      'after a first, shorter try',
      `${fenced(CIRCLE.replace(', frameCount % 100', ''))}\nBetter:\n${fenced(CIRCLE)}`,
      p5,
    ],
    ['for sound', `Press play:\n${fenced(TONE)}`, tone],
    ['for sound, without a fence', `A note:\n\n${TONE}\nHave fun.`, tone],
    ['not there', 'I am sorry, but I cannot draw that.', null],
    ['not there, among semicolons', 'First think; then draw; then rest.', null],
    ['empty', fenced('\n'), null],
    ['only thought of', `<think>${fenced(CIRCLE)}`, null],
    ['nothing at all', '', null],
  ])('%s', (_, reply, expected) => {
    expect(extractSketch(reply)).toEqual(expected);
  });

  test('in a page of HTML, fenced or not, with its libraries left out', () => {
    const page = `<!DOCTYPE html>
<html>
  <head>
    <script src="https://cdn.jsdelivr.net/npm/p5@2/lib/p5.min.js"></script>
    <style>body { margin: 0; }</style>
  </head>
  <body>
    <main></main>
    <script>
${indented(CIRCLE, '      ')}    </script>
  </body>
</html>
`;
    expect(extractSketch(page)).toEqual(p5);
    expect(extractSketch(`Save this as index.html:\n${fenced(page, 'html')}\nand open it.`)).toEqual(p5);
  });

  test('in a page whose script looks for its buttons: they come along', () => {
    const page = `<html><body><button id="play">Play</button>\n<script type="module">\n${TONE}document.getElementById('play').onclick = () => Tone.start();\n</script></body></html>`;
    const source = extractSketch(page)?.sketch.source ?? '';
    expect(source.split('\n')[0]).toBe(
      `document.body.insertAdjacentHTML('beforeend', "<button id=\\"play\\">Play</button>");`,
    );
    expect(source).toContain(TONE);
  });

  test('in pieces: setup here, draw there', () => {
    const [setup, draw] = CIRCLE.split('\n\n');
    expect(extractSketch(`First:\n${fenced(`${setup}\n`)}\nThen:\n${fenced(draw)}`)).toEqual(p5);
  });

  test('that is cut off, wherever it is cut', () => {
    const whole = `Here:\n${fenced(CIRCLE.trimEnd())}`;
    for (let end = whole.indexOf('createCanvas'); end < whole.indexOf('%'); end += 1) {
      expect(extractSketch(whole.slice(0, end))?.isCutOff, whole.slice(0, end)).toBe(true);
    }
    expect(extractSketch(`<script>\n${CIRCLE}`)?.isCutOff).toBe(true);
    expect(extractSketch(CIRCLE.slice(0, -3))?.isCutOff).toBe(true);
  });

  test('brackets in strings, templates, comments and regular expressions are none', () => {
    for (const line of [
      `const a = '(' + "[" + \`{ it's \${'}' + "'"} ( \`;`,
      '// ( [ {',
      '/* ( */ const b = 1 / 2; const c = 4 / (2);',
      String.raw`const d = /[(/]\(/.test("x") ? '\'(' : 1;`,
    ]) {
      expect(extractSketch(fenced(`${CIRCLE}${line}\n`))?.isCutOff, line).toBe(false);
      expect(extractSketch(fenced(`${CIRCLE}${line}\n(\n`))?.isCutOff, line).toBe(true);
    }
  });

  test('whatever a model says, nothing breaks', () => {
    const parts = fc.constantFrom(
      '```',
      '```js\n',
      '~~~',
      '\n',
      '<script>',
      '</script>',
      '<html>',
      '<think>',
      CIRCLE,
      TONE,
      '`',
      '"',
      '/*',
      '${',
      '/',
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(parts, fc.string())), (pieces) => {
        const found = extractSketch(pieces.join(''));
        expect(found === null || found.sketch.source.trim() !== '').toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  test('the language is what the code is written for, unless it was said', () => {
    expect(languageOf(`${CIRCLE}${TONE}`)).toBe('p5');
    expect(languageOf('new p5((p) => { p.setup = () => new Tone.Synth(); });')).toBe('p5');
    expect(extractSketch(fenced(TONE), 'p5')?.sketch.language).toBe('p5');
  });
});

test('a request to mend a sketch holds the rules, the line, the error and the whole code', () => {
  const [system, user] = repairMessages(
    { language: 'p5', source: CIRCLE },
    { message: 'frameCont is not defined', line: 6 },
  );
  expect(system).toMatchObject({ role: 'system', content: expect.stringContaining('p5.js 2.3') as string });
  expect(user.content).toContain('in line 6, which is: circle(200, 200, frameCount % 100);');
  expect(user.content).toContain('frameCont is not defined');
  expect(extractSketch(user.content)?.sketch.source).toBe(CIRCLE);
  expect(repairMessages({ language: 'tonejs', source: TONE }, { message: 'x', line: 99 })[1].content).not.toContain(
    'line',
  );
});

describe('code that is guarded', () => {
  const guarded = (source: string) => prepare({ language: 'p5', source });
  /** Runs it with a guard that stops after `turns` calls. @returns the lines that the guard was called with */
  const linesOf = (source: string, turns = 50): number[] => {
    const lines: number[] = [];
    const guard = (line: number) => {
      lines.push(line);
      if (lines.length >= turns) {
        throw new Error('stopped');
      }
    };
    try {
      const run = runInThisContext(`(function (${GUARD}) {${guarded(source).code}\n})`) as (turn: typeof guard) => void;
      run(guard);
    } catch (error) {
      expect((error as Error).message).toBe('stopped');
    }
    return lines;
  };

  test.each([
    ['for', 'for (;;) {}'],
    ['for without a block', 'for (;;) ;'],
    ['for without a semicolon', 'let n = 0\nfor (;;) n++\n'],
    ['while', 'while (true) { }'],
    ['while without a block', 'while (1) 1'],
    ['do', 'do { } while (true)'],
    ['do without a block', 'do 1; while (true)'],
    ['for of', 'const list = [1]; for (const one of list) list.push(one)'],
    ['for in an arrow', 'const run = () => { for (;;) {} }; run()'],
    ['a labelled one', 'outer: for (;;) for (;;) continue outer'],
    ['one in a class', 'class A { static run() { for (;;) {} } } A.run()'],
    ['recursion', 'function f() { try { f() } catch { f() } } f()'],
    ['arrows that call one another', 'const a = () => b(), b = () => { try { a() } catch { a() } }; a()'],
    ['a generator', 'function* g() { for (;;) yield 1 } for (const x of g()) x'],
    ['a getter', 'const o = { get x() { for (;;) {} } }; o.x'],
    ['what catches everything', 'for (;;) { try { for (;;) ; } catch { } }'],
  ])('an endless loop ends: %s', (_, source) => {
    expect(linesOf(source).length).toBeGreaterThanOrEqual(50);
  });

  test.each([
    [
      'values',
      'const f = x => ({ x }), g = (x) => x * 2; globalThis.seen = [f(1).x, g(2), (() => () => 3)()()]',
      [1, 4, 3],
    ],
    ['strictness', 'function f() { "use strict"; return this === undefined } globalThis.seen = f()', true],
    ['a function that is one directive', 'globalThis.seen = (function () { "use strict" })()', undefined],
    [
      'loops',
      'let n = 0; for (let i = 0; i < 3; i++) for (let j = 0; j < 2; j++) n++\nwhile (n < 9) n++\ndo n++; while (n < 11)\nglobalThis.seen = n',
      11,
    ],
    ['sums over rows', 'let t = ""; for (const c of "abc") t += c\nglobalThis.seen = t', 'abc'],
    [
      'arrows in a loop without a semicolon',
      'let f\nfor (let i = 0; i < 2; i++) f = () => i\nglobalThis.seen = f()',
      1,
    ],
    [
      'constructors',
      'class A { constructor() { this.a = 1 } } class B extends A { constructor() { super(); this.b = 2 } } globalThis.seen = Object.values(new B())',
      [1, 2],
    ],
    ['default values', 'globalThis.seen = ((a = () => 5) => a())()', 5],
    ['text', 'globalThis.seen = `${[1, 2].map((n) => `<${n}>`)}`', '<1>,<2>'],
  ])('what it does stays the same: %s', (_, source, expected) => {
    linesOf(source, 10_000);
    expect((globalThis as { seen?: unknown }).seen).toEqual(expected);
  });

  test('nothing moves to another line', () => {
    expect(guarded(CIRCLE).code.split('\n')).toHaveLength(CIRCLE.split('\n').length);
    expect(linesOf('\n\nfor (let i = 0; i < 1; i++) {}\n\n(() => 1)()', 9)).toEqual([3, 5]);
  });

  test('every column leads back to where it came from', () => {
    const source = `const f = (x) => x + 1;\nfor (let i = 0; i < 3; i++) f(i), (() => boom(i))(); function g() { "use strict"; return () => here }\n\tlast()`;
    const prepared = guarded(source);
    const { code } = prepared;
    const rows = source.split('\n');
    for (const [row, text] of code.split('\n').entries()) {
      for (const word of ['x + 1', 'f(i)', 'boom', 'return', 'here', 'last']) {
        if (text.includes(word)) {
          expect(prepared.placeOf(row + 1, text.indexOf(word) + 1), word).toEqual({
            line: row + 1,
            column: rows[row].indexOf(word) + 1,
          });
        }
      }
    }
    // Inside inserted code: the position where it was inserted.
    expect(prepared.placeOf(1, code.indexOf(GUARD) + 3)).toEqual({ line: 1, column: source.indexOf('x + 1') + 1 });
    expect(prepared.placeOf(99, 7)).toEqual({ line: 99, column: 7 });
  });

  test('a mistake has its place and one sentence', () => {
    const problemOf = (source: string) => {
      try {
        guarded(source);
      } catch (error) {
        expect(error).toBeInstanceOf(SourceProblem);
        return { message: (error as SourceProblem).message, ...(error as SourceProblem).place };
      }
      throw new Error('It was accepted.');
    };
    expect(problemOf('function setup() {\n  circle(1, 2;\n}')).toEqual({
      message: 'Unexpected token.',
      line: 2,
      column: 14,
    });
    expect(problemOf('let a = 1;\nlet a = 2;').line).toBe(2);
    expect(problemOf('import x from "three";\nfoo();')).toEqual({
      message: 'It imports "three", which cannot be loaded: a sketch has p5 and Tone, and no network.',
      line: 1,
      column: 1,
    });
    expect(problemOf(`${'('.repeat(40_000)}1`).message).toBe('The code is nested too deeply to be read.');
    expect(problemOf(`x = ${'1 + '.repeat(40_000)}1`).message).toBe('The code is nested too deeply to be read.');
  });

  test('imports of the libraries become what is there', () => {
    const { code, isModule, libraries } = prepare({
      language: 'tonejs',
      source:
        'import * as Tone from "https://cdn.example/npm/tone@15.1/+esm";\nimport {\n  Synth as S,\n  default as all\n} from "tone";\nimport p5 from "p5";\nawait Tone.start();\n',
    });
    expect({ isModule, libraries }).toEqual({ isModule: true, libraries: ['p5', 'tone'] });
    expect(code.split('\n')).toEqual([
      'const Tone=globalThis.Tone;',
      'const S=globalThis.Tone["Synth"],all=globalThis.Tone;',
      '',
      '',
      '',
      'const p5=globalThis.p5;',
      'await Tone.start();',
      '',
    ]);
  });

  test('libraries are those that it names', () => {
    const librariesOf = (language: 'p5' | 'tonejs', source: string) => prepare({ language, source }).libraries;
    expect(librariesOf('p5', CIRCLE)).toEqual(['p5']);
    expect(librariesOf('p5', 'new Tone.Synth()')).toEqual(['p5', 'tone']);
    expect(librariesOf('tonejs', TONE)).toEqual(['tone']);
    expect(librariesOf('tonejs', `${TONE}function setup() { createCanvas(9, 9) }`)).toEqual(['p5', 'tone']);
  });

  test('names that become global properties are known by place', () => {
    const { globals } = guarded('var log = 1, b;\nlet c;\nfunction map() {}\n{ var inner; }');
    expect([...globals]).toEqual([
      ['log', { line: 1, column: 5 }],
      ['b', { line: 1, column: 14 }],
      ['map', { line: 3, column: 10 }],
    ]);
  });
});

describe('starters', () => {
  const folder = join(import.meta.dirname, '../src/app/sketches/starters');
  const names = readdirSync(folder);

  test('there are six to ten, for drawing, for sound and for both', () => {
    expect(names.length).toBeGreaterThanOrEqual(6);
    expect(names.length).toBeLessThanOrEqual(10);
  });

  test.each(names)('%s has titles and comments in both languages, and its language is the right one', (name) => {
    const text = readFileSync(join(folder, name), 'utf8');
    const [en, de] = (['en', 'de'] as const).map((locale) => parseStarter(name.slice(0, -3), text, locale));
    for (const { title, about, sketch } of [en, de]) {
      expect(title.length * about.length).toBeGreaterThan(0);
      expect(sketch.source).not.toMatch(/\b(en|de): /);
      expect(sketch.language).toBe(languageOf(sketch.source));
      expect(extractSketch(fenced(sketch.source))).toEqual({ sketch, isCutOff: false });
      prepare(sketch);
    }
    expect(de.title).not.toBe(en.title);
    expect(de.sketch.source).not.toBe(en.sketch.source);
    expect(de.sketch.source.split('\n')).toHaveLength(en.sketch.source.split('\n').length);
  });

  test('another file is refused', () => {
    expect(() => parseStarter('x', 'function draw() {}', 'en')).toThrow();
  });
});

describe('files of sketches', () => {
  test('code is opened as it is, a page by its script', async () => {
    expect(await readSketch(new File([TONE.replaceAll('\n', '\r\n')], 'a.js'))).toEqual({
      language: 'tonejs',
      source: TONE,
    });
    expect(await readSketch(new File([`<script>${CIRCLE}</script>`], 'index.html'))).toEqual({
      language: 'p5',
      source: CIRCLE,
    });
  });

  test.each([
    [
      'a page without a script',
      new File(['<html><script src="sketch.js"></script></html>'], 'a.html'),
      'has no script in it',
    ],
    ['a picture', new File(['\x89PNG\0\0'], 'a.png'), 'holds no code'],
    ['an empty file', new File([' \n'], 'a.js'), 'holds no code'],
    ['a library', new File(['x'.repeat(600_000)], 'three.js'), 'is longer than any sketch'],
  ])('%s is refused in a sentence', async (_, file, sentence) => {
    await expect(readSketch(file)).rejects.toMatchObject({
      code: 'invalid_operation',
      message: expect.stringContaining(sentence) as string,
    });
  });

  test('are named after their titles', () => {
    expect(['Wind chimes', 'Gezeiten: früh!', '日本'].map(fileStem)).toEqual([
      'wind_chimes',
      'gezeiten_fru_h',
      'sketch',
    ]);
  });
});

test('sound becomes a WAV file of 16 bits', async () => {
  const file = wav({ rate: 48_000, channels: [new Float32Array([0, 1, -1, 2]), new Float32Array([0.5, -0.5, 0, -2])] });
  expect(file.type).toBe('audio/wav');
  const view = new DataView(await file.arrayBuffer());
  const text = (at: number) => String.fromCharCode(...new Uint8Array(view.buffer, at, 4));
  expect([text(0), text(8), text(12), text(36)]).toEqual(['RIFF', 'WAVE', 'fmt ', 'data']);
  expect([view.getUint32(4, true), view.getUint32(40, true)]).toEqual([36 + 16, 16]);
  expect([
    view.getUint16(20, true),
    view.getUint16(22, true),
    view.getUint32(24, true),
    view.getUint32(28, true),
  ]).toEqual([1, 2, 48_000, 192_000]);
  expect([view.getUint16(32, true), view.getUint16(34, true)]).toEqual([4, 16]);
  expect([...new Int16Array(view.buffer, 44)]).toEqual([0, 16_384, 32_767, -16_383, -32_767, 0, 32_767, -32_767]);
});
