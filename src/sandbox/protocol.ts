/**
 * Messages between the page and a sketch's frame, over a MessagePort that the page passes to the frame once it has loaded.
 * The sketch shares its frame with our script and may tamper with anything it uses, so the page trusts nothing: every message is counted
 * before it is read, and must pass {@link FrameMessage}.
 */
import * as v from 'valibot';
import type { Sketch } from '../core/media.ts';

export type Library = 'p5' | 'tone';
export type Tape = 'canvas' | 'sound';

export type PageMessage =
  | {
      type: 'run';
      language: Sketch['language'];
      code: string;
      isModule: boolean;
      /** The unmodified library files, in loading order. */
      libraries: Blob[];
    }
  | { type: 'snapshot' }
  | { type: 'record'; tape: Tape }
  | { type: 'end_recording'; tape: Tape };

const Text = v.pipe(v.string(), v.maxLength(10_000));
const Position = v.nullable(v.pipe(v.number(), v.integer(), v.minValue(1)));

export const FrameMessage = v.variant('type', [
  v.strictObject({ type: v.literal('alive') }),
  /** Our script has the port. */
  v.strictObject({ type: v.literal('ready') }),
  /** The libraries are loaded, and the sketch's own code runs from now on. */
  v.strictObject({ type: v.literal('running') }),
  v.strictObject({
    type: v.literal('console'),
    entries: v.pipe(
      v.array(v.strictObject({ level: v.picklist(['log', 'info', 'warn', 'error', 'debug']), text: Text })),
      v.maxLength(200),
    ),
    /** How many more there were. */
    dropped: v.pipe(v.number(), v.integer(), v.minValue(0)),
  }),
  v.strictObject({
    type: v.literal('error'),
    message: Text,
    /** Position in the prepared code, both from 1; null if unknown. */
    line: Position,
    column: Position,
    /** Whether the sketch cannot go on and its frame should be removed. */
    isFatal: v.boolean(),
  }),
  /** The answer to `snapshot`; `problem` is a sentence if there is no picture. */
  v.strictObject({ type: v.literal('snapshot'), png: v.nullable(v.instance(Blob)), problem: Text }),
  /** The answer to `record`. */
  v.strictObject({ type: v.literal('recording'), tape: v.picklist(['canvas', 'sound']), problem: v.nullable(Text) }),
  /** A stretch of sound, one plane for each of the two channels. */
  v.strictObject({
    type: v.literal('sound'),
    rate: v.pipe(v.number(), v.minValue(3_000), v.maxValue(768_000)),
    planes: v.tuple([v.instance(Float32Array), v.instance(Float32Array)]),
  }),
  /** The answer to `end_recording`; sound has been sent before, in stretches. */
  v.strictObject({ type: v.literal('recorded'), video: v.nullable(v.instance(Blob)) }),
]);

export type FrameMessage = v.InferOutput<typeof FrameMessage>;
export type ConsoleEntry = Extract<FrameMessage, { type: 'console' }>['entries'][number];
