/** Sketches written by a language model: what the chunks share, whichever library they write for. */
import * as v from 'valibot';
import type { Context, Outputs } from './chunk.ts';
import { StudioError } from './errors.ts';
import type { FieldMetadata } from './field.ts';
import type { Sketch } from './media.ts';
import { SKETCH_RULES, extractSketch, repairMessages } from './sketch.ts';
import type { ChatMessage, StepText } from './text_service.ts';
import { RECORDS, write, writingFields } from './writing.ts';

/** Besides what {@link write} records: the whole reply, which contains the sketch. */
export const SKETCH_RECORDS = [...RECORDS, 'reply'] as const;

const WISH = 'There is nothing to go by; say what the sketch is to do.';
const ERROR = 'error must be what went wrong: {"message": …, "line": …}, whose line is a number or null.';

/** Set by the page when a sketch fails. */
const BY_ITSELF = { group: 'none' } as const satisfies FieldMetadata;

export const sketchFields = () => ({
  prompt: v.pipe(
    v.string(WISH),
    v.regex(/\S/, WISH),
    v.metadata({ label: { en: 'What it does', de: 'Was sie tut' } } satisfies FieldMetadata),
  ),
  /** A failed sketch and its error, which the model is asked to fix. */
  sketch: v.optional(
    v.pipe(v.string('sketch must be code.'), v.regex(/\S/, 'sketch must be code.'), v.metadata(BY_ITSELF)),
  ),
  error: v.optional(
    v.pipe(
      v.strictObject(
        {
          message: v.pipe(v.string(ERROR), v.regex(/\S/, ERROR)),
          /** Line of the sketch, from 1. */
          line: v.optional(v.nullable(v.pipe(v.number(ERROR), v.integer(ERROR), v.minValue(1, ERROR))), null),
        },
        ERROR,
      ),
      v.metadata(BY_ITSELF),
    ),
  ),
  ...writingFields(1500, 0.3),
});

type Input = v.InferOutput<v.ObjectSchema<ReturnType<typeof sketchFields>, undefined>> & { seed: string };

/** Whether a sketch to fix and its error come together, or neither. */
export function isMending({ sketch, error }: Pick<Input, 'sketch' | 'error'>): boolean {
  return (sketch === undefined) === (error === undefined);
}

export const MENDING = 'sketch and error belong together: give the code that failed and what went wrong, or neither.';

/** @throws StudioError `result_invalid` for a reply without code, and whatever `write` throws */
export async function writeSketch(
  language: Sketch['language'],
  input: Input,
  context: Context & { text: StepText },
): Promise<Outputs> {
  const reply = await write(messagesFor(language, input), input, context);
  await context.record('reply', reply.text);
  const found = extractSketch(reply.text, language);
  if (!found) {
    throw new StudioError(
      'result_invalid',
      'There is no code in what the language model replied; try again with another seed, or choose a model made for code.',
      { retry: 'same' },
    );
  }
  if (found.isCutOff) {
    context.notice(
      'The sketch ends in the middle and will hardly run; raise max_new_tokens, or ask for something simpler.',
    );
  }
  return { sketch: found.sketch };
}

function messagesFor(language: Sketch['language'], { prompt, sketch, error }: Input): ChatMessage[] {
  if (sketch !== undefined && error !== undefined) {
    return repairMessages({ language, source: sketch }, error);
  }
  return [
    { role: 'system', content: SKETCH_RULES[language] },
    // Small models follow an example better than any rule.
    { role: 'user', content: asked(EXAMPLES[language].wish, language) },
    { role: 'assistant', content: `\`\`\`js\n${EXAMPLES[language].code}\n\`\`\`` },
    { role: 'user', content: asked(prompt, language) },
  ];
}

const FORMS: Record<Sketch['language'], string> = { p5: 'p5.js sketch', tonejs: 'Tone.js program' };

/** The smallest models only talk about a bare wish, and follow whatever comes last. */
function asked(wish: string, language: Sketch['language']): string {
  return `${wish}\n\nWrite this as one ${FORMS[language]} in a \`\`\`js block.`;
}

const EXAMPLES: Record<Sketch['language'], { wish: string; code: string }> = {
  p5: {
    wish: 'A ring of dots that breathes.',
    code: `function setup() {
  createCanvas(windowWidth, windowHeight);
  noStroke();
}

function draw() {
  background(20, 24, 40);
  translate(width / 2, height / 2);
  const radius = 120 + 40 * sin(frameCount * 0.03);
  for (let i = 0; i < 24; i++) {
    const angle = (i / 24) * TWO_PI;
    fill(240, 180, 80);
    circle(radius * cos(angle), radius * sin(angle), 14);
  }
}`,
  },
  tonejs: {
    wish: 'A slow melody of bells.',
    code: `const bell = new Tone.FMSynth({ volume: -14, envelope: { attack: 0.01, decay: 1.2, sustain: 0, release: 1 } });
bell.connect(new Tone.Reverb(4).toDestination());

const notes = ['E4', 'G4', 'B4', 'D5', 'B4', 'A4'];
new Tone.Sequence((time, note) => {
  bell.triggerAttackRelease(note, '4n', time);
}, notes, '2n').start(0);

Tone.getTransport().bpm.value = 80;
Tone.getTransport().start();`,
  },
};
