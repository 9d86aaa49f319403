/**
 * Runs one sketch at a time in a frame that can neither read Darkroom nor reach the network, and removes the frame if it stops responding.
 *
 * Two frames, one in the other. The outer one is `sandbox/stage.html`, an empty document of our own origin whose only content is its policy: no
 * network, no frames, and evaluated code, which the page's own policy forbids. The inner one is a `srcdoc` with `sandbox="allow-scripts"`: its
 * origin is opaque, it inherits the stage's policy, and browsers run it in a process of its own. It could not be loaded from an address of its
 * own: service workers do not answer for frames with an opaque origin, so without a network there would be no sketches.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Sketch, Sound } from '../core/media.ts';
import frameScript from './frame.ts?script';
import { HEARTBEAT, longestSilence } from './limits.ts';
import { SourceProblem, type Place, type PreparedSketch } from './preparation.ts';
import { FrameMessage, type ConsoleEntry, type Library, type PageMessage, type Tape } from './protocol.ts';

/** An error in the sketch; `place` is its position in the person's own source, null if unknown. */
export interface SketchProblem {
  message: string;
  place: Place | null;
}

export type RunState = 'idle' | 'starting' | 'running';

export interface RunnerListener {
  onState(state: RunState): void;
  onOutput(entries: readonly ConsoleEntry[], dropped: number): void;
  /** An error thrown by the sketch, or why it was stopped. */
  onProblem(problem: SketchProblem): void;
  /** What was recorded until the sketch stopped. */
  onRecording(recording: Recording): void;
}

export type Recording = { tape: 'canvas'; video: Blob } | { tape: 'sound'; sound: Sound };

/** Timeout for loading the frame and the libraries, in milliseconds; no sketch can prolong it, since its code has not run yet. */
const SLOWEST_START = 60_000;
/** How much longer a picture may take if shaders are compiled, or run without a GPU. */
const SHADERS = 4;
/** More messages between two heartbeats than our script ever sends. */
const FLOOD = 200;
/** Longest sound, in samples: ten minutes at 48 kHz, 230 MB. */
const LONGEST_SOUND = 600 * 48_000;

interface Waiting<M> {
  resolve(message: M): void;
  reject(error: StudioError): void;
}
type Answer = Extract<FrameMessage, { type: 'snapshot' | 'recording' | 'recorded' }>;

export class SketchRunner {
  readonly #place: HTMLElement;
  readonly #base: string;
  readonly #listener: RunnerListener;
  #run: FrameRun | null = null;
  #runs = 0;

  /**
   * @param place element that the frame fills
   * @param base URL of the folder containing `sandbox/`, with a trailing slash
   */
  constructor(place: HTMLElement, base: string, listener: RunnerListener) {
    this.#place = place;
    this.#base = base;
    this.#listener = listener;
  }

  /** Restarts a sketch in a new frame. Problems go to the listener. */
  async run(sketch: Sketch): Promise<void> {
    this.stop();
    this.#runs += 1;
    const mine = this.#runs;
    this.#listener.onState('starting');
    try {
      // Only running a sketch needs the parser.
      const { prepare } = await import('./preparation.ts');
      const prepared = prepare(sketch);
      const libraries = await Promise.all(prepared.libraries.map((library) => this.#library(library)));
      if (mine !== this.#runs) {
        return;
      }
      const run = new FrameRun(this.#place, this.#base, prepared, {
        ...this.#listener,
        onState: (state) => mine === this.#runs && this.#listener.onState(state),
        onProblem: (problem) => this.#listener.onProblem(problem),
        onOutput: (entries, dropped) => this.#listener.onOutput(entries, dropped),
        onRecording: (recording) => this.#listener.onRecording(recording),
      });
      this.#run = run;
      await run.start(sketch.language, libraries);
    } catch (error) {
      if (mine === this.#runs) {
        this.stop();
        this.#listener.onProblem(
          error instanceof SourceProblem
            ? { message: error.message, place: error.place }
            : { message: StudioError.from(error).message, place: null },
        );
      }
    }
  }

  /** Removes the frame and everything in it. */
  stop(): void {
    this.#runs += 1;
    this.#run?.end();
    this.#run = null;
    this.#listener.onState('idle');
  }

  /** The sketch's canvas as PNG. @throws StudioError `result_invalid` if it has none */
  async snapshot(): Promise<Blob> {
    return this.#running().snapshot();
  }

  /** @throws StudioError `result_invalid` if there is nothing to record */
  async record(tape: Tape): Promise<void> {
    await this.#running().record(tape);
  }

  async endRecording(tape: Tape): Promise<Recording> {
    return this.#running().endRecording(tape);
  }

  #running(): FrameRun {
    if (!this.#run || this.#run.isOver) {
      throw new StudioError('result_invalid', 'No sketch is running; press Run first.');
    }
    return this.#run;
  }

  async #library(name: Library): Promise<Blob> {
    const response = await fetch(`${this.#base}sandbox/${name === 'p5' ? 'p5.min.js' : 'Tone.js'}`).catch(() => null);
    if (!response?.ok) {
      throw new StudioError(
        'origin_unavailable',
        `The library ${name === 'p5' ? 'p5' : 'Tone'} could not be loaded; check the connection and run the sketch again.`,
        { retry: 'same' },
      );
    }
    return response.blob();
  }
}

/** One frame, from creation to removal. */
class FrameRun {
  readonly #stage = document.createElement('iframe');
  readonly #prepared: PreparedSketch;
  readonly #listener: RunnerListener;
  readonly #onStray = (event: MessageEvent) => this.#countStray(event);
  #frame: HTMLIFrameElement | null = null;
  #port: MessagePort | null = null;
  #timer: ReturnType<typeof setInterval> | undefined;
  #ready = Promise.withResolvers<void>();
  isOver = false;
  #isRunning = false;
  /** Milliseconds of silence, and the limit. */
  #silence = 0;
  #patience = SLOWEST_START;
  #told = 0;
  #watched = performance.now();
  #heard = 0;
  #waiting: { type: Answer['type']; tape: Tape | null; waiting: Waiting<Answer> }[] = [];
  #sound: { rate: number; samples: number; planes: [Float32Array[], Float32Array[]] } | null = null;

  constructor(place: HTMLElement, base: string, prepared: PreparedSketch, listener: RunnerListener) {
    this.#prepared = prepared;
    this.#listener = listener;
    this.#stage.title = 'Sketch';
    this.#stage.src = `${base}sandbox/stage.html`;
    this.#stage.style.cssText = 'display:block;width:100%;height:100%;border:0';
    this.#ready.promise.catch(() => undefined);
    place.replaceChildren(this.#stage);
  }

  async start(language: Sketch['language'], libraries: Blob[]): Promise<void> {
    addEventListener('message', this.#onStray);
    this.#timer = setInterval(() => this.#watch(), HEARTBEAT);
    await loaded(this.#stage);
    const stage = this.#stage.contentDocument;
    if (this.isOver) {
      return;
    }
    if (!stage?.querySelector('meta[http-equiv="Content-Security-Policy"]')) {
      throw new StudioError(
        'origin_unavailable',
        'The sandbox could not be loaded; check the connection and run the sketch again.',
        {
          retry: 'same',
        },
      );
    }
    const frame = stage.createElement('iframe');
    frame.title = 'Sketch';
    // Never allow-same-origin, with which the frame could read everything Darkroom stores.
    frame.setAttribute('sandbox', 'allow-scripts');
    frame.allow = 'autoplay';
    frame.srcdoc = await documentOf(getComputedStyle(this.#stage).getPropertyValue('--accent').trim());
    this.#frame = frame;
    const isLoaded = loaded(frame);
    stage.body.replaceChildren(frame);
    await isLoaded;
    if (this.isOver) {
      return;
    }
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    port1.onmessage = (event) => this.#onMessage(event);
    // An opaque origin cannot be addressed; the window is the one created above, and nothing passed to it is secret.
    frame.contentWindow?.postMessage('darkroom:port', '*', [port2]);
    await this.#ready.promise;
    const { code, isModule } = this.#prepared;
    this.#told = performance.now();
    this.#tell({ type: 'run', language, code, isModule, libraries });
    if (!document.activeElement?.matches('[contenteditable="true"], textarea')) {
      // Keys go to the sketch, unless somebody is typing.
      frame.focus();
    }
  }

  end(): void {
    if (this.isOver) {
      return;
    }
    this.isOver = true;
    clearInterval(this.#timer);
    removeEventListener('message', this.#onStray);
    this.#port?.close();
    this.#stage.remove();
    this.#ready.reject(new StudioError('cancelled', 'The sketch was stopped.', { retry: 'same' }));
    for (const { waiting } of this.#waiting.splice(0)) {
      waiting.reject(new StudioError('cancelled', 'The sketch was stopped.', { retry: 'same' }));
    }
    const sound = this.#takeSound();
    if (sound) {
      this.#listener.onRecording({ tape: 'sound', sound });
    }
  }

  async snapshot(): Promise<Blob> {
    const { png, problem } = await this.#ask({ type: 'snapshot' }, 'snapshot', null);
    if (!png || !(await isPng(png))) {
      throw new StudioError('result_invalid', problem || 'What the sketch gave is not a picture.');
    }
    return new Blob([png], { type: 'image/png' });
  }

  async record(tape: Tape): Promise<void> {
    const { problem } = await this.#ask({ type: 'record', tape }, 'recording', tape);
    if (problem !== null) {
      throw new StudioError('result_invalid', problem);
    }
  }

  async endRecording(tape: Tape): Promise<Recording> {
    const { video } = await this.#ask({ type: 'end_recording', tape }, 'recorded', tape);
    if (tape === 'canvas') {
      if (!video || video.size === 0) {
        throw new StudioError('result_invalid', 'Nothing was recorded: the canvas did not change.');
      }
      return { tape, video: new Blob([video], { type: 'video/webm' }) };
    }
    const sound = this.#takeSound();
    if (!sound) {
      throw new StudioError('result_invalid', 'Nothing was recorded: the sketch made no sound.');
    }
    return { tape, sound };
  }

  #tell(message: PageMessage): void {
    this.#port?.postMessage(message);
  }

  #ask<T extends Answer['type']>(
    message: PageMessage,
    type: T,
    tape: Tape | null,
  ): Promise<Extract<Answer, { type: T }>> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#waiting.push({ type, tape, waiting: { resolve, reject } });
    this.#tell(message);
    return promise as Promise<Extract<Answer, { type: T }>>;
  }

  #onMessage(event: MessageEvent<unknown>): void {
    this.#heard += 1;
    if (this.isOver || this.#isFlooded()) {
      return;
    }
    const { success, output } = v.safeParse(FrameMessage, event.data);
    if (success) {
      this.#take(output);
    } else {
      this.#stopFor('The sketch disturbed the sandbox that it runs in, so it was stopped.');
    }
  }

  #take(message: FrameMessage): void {
    switch (message.type) {
      case 'alive':
        this.#silence = 0;
        return;
      case 'ready':
        this.#ready.resolve();
        return;
      case 'running':
        this.#isRunning = true;
        this.#silence = 0;
        this.#patience = longestSilence(performance.now() - this.#told) * (this.#prepared.hasShaders ? SHADERS : 1);
        this.#listener.onState('running');
        return;
      case 'console':
        this.#listener.onOutput(message.entries, message.dropped);
        return;
      case 'error':
        this.#listener.onProblem(this.#problemOf(message));
        if (message.isFatal) {
          this.#stop();
        }
        return;
      case 'sound':
        this.#keepSound(message);
        return;
      default: {
        const at = this.#waiting.findIndex(({ type }) => type === message.type);
        this.#waiting.splice(at, at < 0 ? 0 : 1)[0]?.waiting.resolve(message);
      }
    }
  }

  #problemOf({ message, line, column }: Extract<FrameMessage, { type: 'error' }>): SketchProblem {
    // The one p5 error without a position.
    const taken = /Cannot redefine property: ([\w$]+)/.exec(message)?.[1];
    const declared = taken === undefined ? undefined : this.#prepared.globals.get(taken);
    if (taken !== undefined && declared) {
      return { message: `p5 has its own "${taken}"; give yours another name.`, place: declared };
    }
    if (line === null) {
      return { message, place: null };
    }
    return { message, place: column === null ? { line, column: 1 } : this.#prepared.placeOf(line, column) };
  }

  #keepSound({ rate, planes }: Extract<FrameMessage, { type: 'sound' }>): void {
    this.#sound ??= { rate, samples: 0, planes: [[], []] };
    const length = Math.min(planes[0].length, planes[1].length);
    if (this.#sound.samples + length > LONGEST_SOUND) {
      return;
    }
    this.#sound.samples += length;
    this.#sound.planes.forEach((parts, channel) => parts.push(planes[channel].subarray(0, length)));
  }

  #takeSound(): Sound | null {
    const taken = this.#sound;
    this.#sound = null;
    if (!taken) {
      return null;
    }
    const channels = taken.planes.map((parts) => {
      const plane = new Float32Array(taken.samples);
      let at = 0;
      for (const part of parts) {
        plane.set(part, at);
        at += part.length;
      }
      return plane;
    });
    return { rate: taken.rate, channels };
  }

  #watch(): void {
    this.#heard = 0;
    const time = performance.now();
    const passed = time - this.#watched;
    this.#watched = time;
    if (document.hidden) {
      // Timers of a hidden page are throttled, in both frames.
      this.#silence = 0;
      return;
    }
    // If the page itself was delayed, so may the frame have been.
    this.#silence += Math.min(passed, 1.5 * HEARTBEAT);
    if (this.#silence > this.#patience) {
      this.#stopFor(
        this.#port && this.#isRunning
          ? `The sketch did not answer for ${Math.round(this.#patience / 1_000)} seconds, so it was stopped. Look for work that does not end, or that is too much at once.`
          : 'The sketch did not start. If this happens with every sketch, the server sends the wrong policy for sandbox/stage.html (docs/serving.md).',
      );
    }
  }

  /** The port is the only channel; posting to the page's window from inside can only be a nuisance. */
  #countStray({ source }: MessageEvent): void {
    if (source !== null && source === this.#frame?.contentWindow) {
      this.#heard += 1;
      this.#isFlooded();
    }
  }

  #isFlooded(): boolean {
    const isFlooded = this.#heard > FLOOD;
    if (isFlooded) {
      this.#stopFor('The sketch sent more messages than anybody can read, so it was stopped.');
    }
    return isFlooded;
  }

  #stopFor(message: string): void {
    if (!this.isOver) {
      this.#listener.onProblem({ message, place: null });
      this.#stop();
    }
  }

  #stop(): void {
    this.end();
    this.#listener.onState('idle');
  }
}

function loaded(frame: HTMLIFrameElement): Promise<void> {
  return new Promise((done) => frame.addEventListener('load', () => done(), { once: true }));
}

/** The inner document: our script, by its hash the only one that may stand in a document there, and a policy of its own that says so. */
async function documentOf(accent: string): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(frameScript));
  const policy = `script-src 'sha256-${base64(new Uint8Array(hash))}' 'unsafe-eval' blob:`;
  return (
    `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="${policy}">` +
    `<style>:root{color-scheme:light dark;accent-color:${/^[#\w(),.% -]+$/.test(accent) ? accent : 'auto'};font:16px/1.5 system-ui,sans-serif}` +
    `html,body{height:100%}body{margin:0;display:grid;place-content:center;overflow:auto}canvas,video{display:block}</style></head>` +
    `<body><script>${frameScript}</script></body></html>`
  );
}

function base64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}

async function isPng(blob: Blob): Promise<boolean> {
  const head = new Uint8Array(await blob.slice(0, 8).arrayBuffer());
  return [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a].every((byte, at) => head[at] === byte);
}
