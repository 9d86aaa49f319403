import { StudioError } from '../../core/errors.ts';
import type { Sketch } from '../../core/media.ts';
import type { ConsoleEntry, Tape } from '../../sandbox/protocol.ts';
import { SketchRunner, type Recording, type RunState, type SketchProblem } from '../../sandbox/runner.ts';

export interface OutputLine {
  id: number;
  level: ConsoleEntry['level'] | 'note';
  text: string;
  /** How many times in a row. */
  count: number;
}

/** Nobody scrolls through more lines, and each is an element of the page. */
const KEPT_LINES = 300;

/** The state of the running sketch, or the last one. */
export class SketchSession {
  state = $state<RunState>('idle');
  lines = $state.raw<OutputLine[]>([]);
  /** The first thing that went wrong in this run. */
  problem = $state.raw<SketchProblem | null>(null);
  /** A sentence on why a picture or a recording was refused. */
  refusal = $state<string | null>(null);
  recording = $state<Tape | null>(null);

  readonly #onRecording: (recording: Recording) => void;
  #runner: SketchRunner | null = null;
  #ids = 0;

  constructor(onRecording: (recording: Recording) => void) {
    this.#onRecording = onRecording;
  }

  readonly isOn = $derived(this.state !== 'idle');

  /** Shows the running sketch in `place`. @returns a function that ends it */
  show(place: HTMLElement): () => void {
    const runner = new SketchRunner(place, import.meta.env.BASE_URL, {
      onState: (state) => {
        this.state = state;
        this.recording = state === 'idle' ? null : this.recording;
      },
      onOutput: (entries, dropped) => this.#print(entries, dropped),
      onProblem: (problem) => {
        this.problem ??= problem;
        this.#add('error', problem.place ? `Line ${problem.place.line}: ${problem.message}` : problem.message);
      },
      onRecording: (recording) => this.#onRecording(recording),
    });
    this.#runner = runner;
    return () => {
      runner.stop();
      this.#runner = null;
    };
  }

  async run(sketch: Sketch): Promise<void> {
    // A recording ends with its sketch, and is not lost.
    await this.endRecording();
    this.lines = [];
    this.problem = null;
    this.refusal = null;
    await this.#runner?.run(sketch);
  }

  async stop(): Promise<void> {
    await this.endRecording();
    this.#runner?.stop();
  }

  /** @returns the canvas as PNG, or null; {@link refusal} says why */
  snapshot(): Promise<Blob | null> {
    return this.#attempt(async (runner) => runner.snapshot());
  }

  async record(tape: Tape): Promise<void> {
    await this.#attempt(async (runner) => {
      await runner.record(tape);
      this.recording = tape;
    });
  }

  async endRecording(): Promise<void> {
    const tape = this.recording;
    if (tape === null) {
      return;
    }
    this.recording = null;
    const recording = await this.#attempt(async (runner) => runner.endRecording(tape));
    if (recording) {
      this.#onRecording(recording);
    }
  }

  async #attempt<T>(work: (runner: SketchRunner) => Promise<T>): Promise<T | null> {
    this.refusal = null;
    try {
      return this.#runner ? await work(this.#runner) : null;
    } catch (error) {
      const { code, message } = StudioError.from(error);
      // Whoever stops a sketch knows that it stopped.
      this.refusal = code === 'cancelled' ? null : message;
      return null;
    }
  }

  #print(entries: readonly ConsoleEntry[], dropped: number): void {
    for (const { level, text } of entries) {
      this.#add(level, text);
    }
    if (dropped > 0) {
      this.#add('note', `${dropped} more lines were written than can be shown.`);
    }
  }

  #add(level: OutputLine['level'], text: string): void {
    const last = this.lines.at(-1);
    if (last?.level === level && last.text === text) {
      this.lines = [...this.lines.slice(0, -1), { ...last, count: last.count + 1 }];
      return;
    }
    this.#ids += 1;
    this.lines = [...this.lines, { id: this.#ids, level, text, count: 1 }].slice(-KEPT_LINES);
  }
}
