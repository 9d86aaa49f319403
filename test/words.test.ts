/** Language model steps with a scripted model: what is sent, streamed, recorded, passed on and refused. */
import { describe, expect, test } from 'vitest';
import * as v from 'valibot';
import * as p5js from '../chunks/output_code_p5js.ts';
import * as tonejs from '../chunks/output_code_tonejs.ts';
import * as speech from '../chunks/text_to_speech.ts';
import * as transform from '../chunks/transform_text.ts';
import type { Context } from '../src/core/chunk.ts';
import type { StudioError } from '../src/core/errors.ts';
import type { Job } from '../src/core/job.ts';
import { SKETCH_RULES } from '../src/core/sketch.ts';
import type { SpeechRequest } from '../src/core/speech_service.ts';
import type { StepTextRequest, TextDelta, TextResult } from '../src/core/text_service.ts';
import { resumed } from '../src/jobs/resumption.ts';
import { JobWatchers } from '../src/jobs/job_watchers.ts';
import type { Delta } from '../src/core/job.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';

/** A model that gives this answer, in two pieces. */
function stage(answer: Partial<TextResult> = {}) {
  const sent: StepTextRequest[] = [];
  const told: { text: string; thinking: boolean }[] = [];
  const recorded: Record<string, unknown> = {};
  const notices: string[] = [];
  const steps: [number | undefined, number | undefined][] = [];
  const result: TextResult = {
    text: 'red roof',
    thinking: '',
    ids: [1, 2],
    tokens: { prompt: 10, generated: 2, limit: 1024 },
    finish: 'stop',
    ...answer,
  };
  const context = {
    record: (type: string, content: unknown) => {
      recorded[type] = content;
      return Promise.resolve('');
    },
    progress: (_: string, step?: number, of?: number) => steps.push([step, of]),
    delta: (text: string, thinking = false) => told.push({ text, thinking }),
    notice: (sentence: string) => notices.push(sentence),
    text: {
      generate: (request: StepTextRequest, onDelta: (delta: TextDelta) => void) => {
        sent.push(request);
        onDelta({ text: result.thinking, thinking: true });
        onDelta({ text: result.text, thinking: false });
        return Promise.resolve(result);
      },
    },
  };
  return { context: context as unknown as Context & typeof context, sent, told, recorded, notices, steps };
}

const refusal = (work: Promise<unknown>) =>
  work.then(
    () => null,
    (error: unknown) => error as StudioError,
  );

const rule = (more: object = {}) =>
  v.parse(transform.parameters, {
    operation: 'text_transformation',
    text: 'A house',
    instruction: 'Short.',
    seed: '1',
    ...more,
  });

describe('words from words', () => {
  test('the rule is the system message, in the language that was chosen, and the text the person’s', async () => {
    const { context, sent, recorded, told, steps, notices } = stage({ thinking: 'hm', text: ' red roof\n' });
    const instruction = { en: 'Short.', de: 'Kurz.' };
    const outputs = await transform.execute(rule({ instruction, language: 'de', thinking: true, top_p: 0.9 }), context);
    expect(outputs).toEqual({ text: 'red roof' });
    const messages = [
      { role: 'system', content: 'Kurz.' },
      { role: 'user', content: 'A house' },
    ];
    expect(sent).toEqual([
      expect.objectContaining({
        messages,
        seed: '1',
        temperature: 0.7,
        max_new_tokens: 300,
        thinking: true,
        top_p: 0.9,
      }),
    ]);
    expect(recorded).toEqual({ sent_messages: { messages }, thinking: 'hm' });
    expect(told).toEqual([
      { text: 'hm', thinking: true },
      { text: ' red roof\n', thinking: false },
    ]);
    expect(steps).toEqual([
      [0, 300],
      [1, 300],
      [2, 300],
    ]);
    expect(notices).toEqual([]);
  });

  test('every limit that cuts an answer off is said, and an answer of nothing is none', async () => {
    const cut = stage({ finish: 'length', tokens: { prompt: 10, generated: 300, limit: null } });
    await transform.execute(rule(), cut.context);
    expect(cut.notices).toEqual([
      'The answer was cut off after 300 tokens: max_new_tokens is 300; raise it for a longer one.',
    ]);
    const full = stage({ finish: 'length', tokens: { prompt: 900, generated: 124, limit: 1024 } });
    await transform.execute(rule(), full.context);
    expect(full.notices[0]).toContain('the model takes 1,024 tokens, question and answer together');
    const thought = {
      text: '',
      thinking: 'hm',
      finish: 'length',
      tokens: { prompt: 1, generated: 300, limit: null },
    } as const;
    expect(await refusal(transform.execute(rule(), stage(thought).context))).toMatchObject({
      code: 'result_invalid',
      retry: 'same',
      message: expect.stringContaining('switch thinking off') as string,
    });
    expect(await refusal(transform.execute(rule(), stage({ text: ' ' }).context))).toMatchObject({
      code: 'result_invalid',
      message: 'The language model answered with nothing; try again with another seed, or choose another model.',
    });
  });

  test.each([
    [{ text: ' ' }, 'There is no text to work on; write something first.'],
    [{ instruction: '' }, 'instruction must say what to do with the text'],
    [{ instruction: { en: 'Short.' } }, 'instruction must say what to do with the text'],
    [{ temperature: 3 }, 'temperature must be a number from 0 to 2.'],
    [{ top_p: 0 }, 'top_p must be a number above 0 and up to 1.'],
    [{ max_new_tokens: 0 }, 'max_new_tokens must be a whole number from 1 to 8192.'],
    [{ language: 'fr' }, 'language must be en or de.'],
  ])('%j is refused', (more, sentence) => {
    expect(() => rule(more)).toThrow(sentence);
  });
});

describe.each([
  ['p5', p5js, 'function setup() {\n  createCanvas(9, 9);\n}\n\nfunction draw() {\n  point(1, 1);\n}'],
  ['tonejs', tonejs, "const synth = new Tone.Synth().toDestination();\nsynth.triggerAttackRelease('C4', 1);"],
] as const)('sketches for %s', (language, chunk, source) => {
  const input = (more: object = {}) =>
    v.parse(chunk.parameters, { operation: 'code_generation', prompt: 'dots', seed: '1', ...more });

  test('are taken out of the reply, which is kept', async () => {
    const reply = `Sure!\n\`\`\`js\n${source}\n\`\`\`\nEnjoy.`;
    const { context, sent, recorded } = stage({ text: reply });
    expect(await chunk.execute(input(), context)).toEqual({ sketch: { language, source: `${source}\n` } });
    expect(recorded.reply).toBe(reply);
    const [{ messages }] = sent;
    expect(messages.map(({ role }) => role)).toEqual(['system', 'user', 'assistant', 'user']);
    expect(messages[0].content).toBe(SKETCH_RULES[language]);
    expect(messages[3].content).toMatch(/^dots\n\nWrite this as one .* in a ```js block\.$/);
    expect(messages[2].content).toMatch(/^```js\n/);
  });

  test('that failed are sent back with their error, once', async () => {
    const { context, sent } = stage({ text: `\`\`\`js\n${source}\n\`\`\`` });
    await chunk.execute(input({ sketch: 'a\nb(', error: { message: 'Unexpected end', line: 2 } }), context);
    expect(sent).toHaveLength(1);
    expect(sent[0].messages[1].content).toContain('This sketch fails in line 2, which is: b(');
    expect(() => input({ sketch: 'a' })).toThrow('sketch and error belong together');
    expect(() => input({ error: { message: 'x' } })).toThrow('sketch and error belong together');
    expect(() => input({ sketch: 'a', error: { message: '' } })).toThrow('error must be what went wrong');
  });

  test('that are none or end in the middle are said to be', async () => {
    const none = stage({ text: 'I would rather talk.' });
    expect(await refusal(chunk.execute(input(), none.context))).toMatchObject({
      code: 'result_invalid',
      retry: 'same',
      message: expect.stringContaining('There is no code') as string,
    });
    expect(none.recorded.reply).toBe('I would rather talk.');
    const cut = stage({ text: `\`\`\`js\n${source}\nfunction more() {` });
    await chunk.execute(input(), cut.context);
    expect(cut.notices[0]).toContain('ends in the middle');
  });
});

test('a voice is asked for what it is given, and what it left out is said', async () => {
  const asked: Omit<SpeechRequest, 'model'>[] = [];
  const notices: string[] = [];
  const channels = [new Float32Array([0, 1])];
  const context = {
    progress: () => undefined,
    notice: (sentence: string) => notices.push(sentence),
    speech: {
      speak: (request: Omit<SpeechRequest, 'model'>) => {
        asked.push(request);
        return Promise.resolve({ rate: 16_000, channels, unspoken: '5%' });
      },
    },
  };
  const input = v.parse(speech.parameters, { operation: 'audio_generation', prompt: '5 %', voice: 'a' });
  const outputs = await speech.execute(input, context as unknown as Parameters<typeof speech.execute>[1]);
  expect(outputs).toEqual({ sound: { rate: 16_000, channels } });
  expect(asked).toEqual([{ text: '5 %', voice: 'a', speed: undefined }]);
  expect(notices).toEqual(['This voice has no sound for 5 %, which it left out.']);
  expect(() => v.parse(speech.parameters, { operation: 'audio_generation', prompt: '' })).toThrow('nothing to say');
});

describe('what was made', () => {
  const entity = (type: string, step?: string) => ({
    run: 'r',
    sequence: 1,
    type,
    filename: `${type}.txt`,
    timestamp: '',
    sha256: '',
    metadata: step === undefined ? {} : { step },
  });
  const job = (types: [string, string?][]): Pick<Job, 'operation' | 'run' | 'entities'> => ({
    operation: {
      operation: 'image_generation',
      config: 'interception_translated',
      parameters: { prompt: 'a' },
      priority: 'normal',
      checkpoint: null,
      record: [],
    },
    run: 'r',
    entities: types.map(([type, step]) => entity(type, step)),
  });
  const read = (_: string, filename: string) => Promise.resolve(new Blob([`what ${filename} says`]));

  test('is given when a job that failed goes on, and nothing else', async () => {
    const failed = job([['input'], ['sent_messages', 'interception'], ['interception', 'interception']]);
    expect((await resumed(failed, catalogue, read)).given).toEqual({
      interception: { text: 'what interception.txt says' },
    });
    const both = job([
      ['interception', 'interception'],
      ['translation', 'translation'],
    ]);
    expect(Object.keys((await resumed(both, catalogue, read)).given ?? {})).toEqual(['interception', 'translation']);
    const nothing = job([['input']]);
    expect(await resumed(nothing, catalogue, read)).toBe(nothing.operation);
    const mine = { ...failed, operation: { ...failed.operation, given: { interception: { text: 'mine' } } } };
    expect((await resumed(mine, catalogue, read)).given).toEqual({ interception: { text: 'mine' } });
  });

  test('words so far are those of the attempt at work, thoughts apart', () => {
    const watchers = new JobWatchers();
    const hear = (attempt: number, text: string, thinking = false) =>
      watchers.words.add('a', attempt, { step: 's', text, thinking });
    hear(1, 'lo');
    hear(1, 'st');
    hear(2, 'h', true);
    hear(2, 'm', true);
    hear(2, 'red');
    const told: Delta[] = [];
    watchers.words.listen('a', (delta) => told.push(delta));
    expect(told).toEqual([
      { step: 's', text: 'hm', thinking: true },
      { step: 's', text: 'red', thinking: false },
    ]);
  });
});
