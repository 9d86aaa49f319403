/**
 * The script inside a sketch's frame. It is built as one classic script and inlined into the frame's document (vite.config.ts, runner.ts),
 * where the policy only admits its hash; it may only import types and `limits.ts`. The frame has an opaque origin and no network: libraries,
 * code and answers cross the port that the page passes in.
 */
import { GUARD, HEARTBEAT, SKETCH_FILE, longestTurn } from './limits.ts';
import type { FrameMessage, PageMessage, Tape } from './protocol.ts';

interface ToneNode {
  connect(to: unknown): unknown;
  disconnect(from: unknown): unknown;
}
interface ToneLibrary {
  start(): Promise<void>;
  getDestination(): ToneNode;
  getContext(): {
    rawContext: { sampleRate: number; destination: unknown };
    addAudioWorkletModule(url: string): Promise<void>;
    createAudioWorkletNode(name: string, options: AudioWorkletNodeOptions): AudioWorkletNode;
    createMediaStreamDestination(): MediaStreamAudioDestinationNode;
  };
  Analyser: new (type: 'waveform', size: number) => { getValue(): Float32Array };
}
interface Libraries {
  p5?: (new () => unknown) & { instance: unknown };
  Tone?: ToneLibrary;
}
const loaded = globalThis as unknown as Libraries;

// WebRTC is the one way out that no policy closes. Everything the sketch could reach it through is removed before the sketch starts;
// frames it creates run no scripts, because the policy only admits this one.
for (const name of Object.keys(Object.getOwnPropertyDescriptors(globalThis)).filter((one) => /RTC/.test(one))) {
  Reflect.deleteProperty(globalThis, name);
}
// Its source and hash cannot be read from the document either.
document.currentScript?.remove();

// Tone would log its name first.
Object.assign(globalThis, { TONE_SILENCE_LOGGING: true });

// Saved before the sketch can replace them.
const { setInterval: every, setTimeout: after, requestAnimationFrame: nextFrame } = globalThis;
const now = performance.now.bind(performance);

addEventListener('message', function take({ data, source, ports: [port] }: MessageEvent<unknown>) {
  if (source === parent.parent && data === 'darkroom:port' && port) {
    removeEventListener('message', take);
    new Player(port);
  }
});

class Player {
  readonly #post: (message: FrameMessage, transfer?: Transferable[]) => void;
  readonly #output = new Output();
  readonly #watch: Guard;
  readonly #tapes = new Map<Tape, () => Promise<Blob | null>>();

  constructor(port: MessagePort) {
    const post = port.postMessage.bind(port);
    this.#post = (message, transfer = []) => post(message, transfer);
    this.#watch = new Guard((message, line) => this.#fail(message, { line, column: null }, true));
    port.onmessage = ({ data }: MessageEvent<PageMessage>) => void this.#obey(data);
    addEventListener('error', (event) => this.#onError(event));
    addEventListener('unhandledrejection', ({ reason }) => this.#fail(sentence(reason), placeIn(reason)));
    every(() => {
      this.#watch.rest();
      this.#post({ type: 'alive' });
      this.#output.flush(this.#post);
      fitCanvases();
    }, HEARTBEAT);
    addEventListener('resize', fitCanvases);
    this.#post({ type: 'ready' });
  }

  async #obey(message: PageMessage): Promise<void> {
    if (message.type === 'run') {
      await this.#run(message);
    } else if (message.type === 'snapshot') {
      const canvas = largestCanvas();
      const png = canvas ? await pngOf(canvas).catch(() => null) : null;
      const problem = canvas
        ? 'The browser could not read the canvas.'
        : 'The sketch has no canvas to take a picture of.';
      this.#post({ type: 'snapshot', png, problem: png ? '' : problem });
    } else if (message.type === 'record') {
      const problem = await this.#record(message.tape).catch((error: unknown) => sentence(error));
      this.#post({ type: 'recording', tape: message.tape, problem });
    } else {
      const end = this.#tapes.get(message.tape);
      this.#tapes.delete(message.tape);
      this.#post({ type: 'recorded', video: (await end?.()) ?? null });
    }
  }

  async #run({ language, code, isModule, libraries }: Extract<PageMessage, { type: 'run' }>): Promise<void> {
    const began = now();
    for (const library of libraries) {
      await load(URL.createObjectURL(library), false);
    }
    this.#watch.limit = longestTurn(now() - began);
    // Pressing Run was a user gesture, and the frame's `allow` lets it play sound.
    void loaded.Tone?.start();
    this.#post({ type: 'running' });
    this.#watch.rest();
    const blob = new Blob([code, `\n//# sourceURL=${SKETCH_FILE}`], { type: 'text/javascript' });
    // Its exceptions arrive as window errors, with line numbers.
    await load(URL.createObjectURL(blob), isModule);
    this.#watch.rest();
    this.#startP5();
    if (language === 'tonejs') {
      // A drawing sketch has drawn by then.
      after(() => largestCanvas() ?? drawSound(), 2 * HEARTBEAT);
    }
  }

  /** What p5 does by itself when loaded after the sketch. Our order lets the sketch use p5 at the top level. */
  #startP5(): void {
    const { setup, draw } = globalThis as { setup?: unknown; draw?: unknown };
    if (loaded.p5 && !loaded.p5.instance && (typeof setup === 'function' || typeof draw === 'function')) {
      try {
        new loaded.p5();
      } catch (error) {
        this.#fail(sentence(error), placeIn(error));
      }
    }
  }

  #onError({ message, filename, lineno, colno, error }: ErrorEvent): void {
    const own = filename.endsWith(SKETCH_FILE) && lineno > 0 ? { line: lineno, column: Math.max(1, colno) } : null;
    this.#fail(error === null || error === undefined ? message : sentence(error), own ?? placeIn(error));
  }

  #fail(message: string, { line, column }: CodePlace, isFatal = false): void {
    // Earlier output comes first.
    this.#output.flush(this.#post);
    this.#post({ type: 'error', message: cut(message), line, column, isFatal });
  }

  /** @returns why it cannot be recorded, or null if it is being recorded */
  async #record(tape: Tape): Promise<string | null> {
    const end = tape === 'canvas' ? filmed() : await taped(this.#post);
    if (typeof end === 'string') {
      return end;
    }
    this.#tapes.set(tape, end);
    return null;
  }
}

interface CodePlace {
  line: number | null;
  column: number | null;
}

/** Throws in code that has run too long without a pause. */
class Guard {
  /** In milliseconds. */
  limit = longestTurn(0);
  #busy = 0;
  #checked = now();
  #left = 1;
  #stride = 1;
  #isAsked = false;

  constructor(onTrip: (message: string, line: number) => void) {
    // Arrives once the current task and earlier ones are done, so a sketch that lets it arrive is pausing.
    const { port1, port2 } = new MessageChannel();
    const ask = port2.postMessage.bind(port2, null);
    port1.onmessage = () => {
      this.#isAsked = false;
      this.rest();
    };
    const turn = (line: number) => {
      this.#left -= 1;
      if (this.#left > 0) {
        return;
      }
      const time = now();
      const spent = time - this.#checked;
      this.#checked = time;
      // A long gap between two iterations is the machine's fault, not the loop's.
      this.#busy += Math.min(spent, 50);
      // Check the clock about once a millisecond: more often costs more than most loops, and less often is too late for heavy ones.
      this.#stride = spent < 1 ? Math.min(2 * this.#stride, 1_024) : spent > 8 ? 1 : this.#stride;
      this.#left = this.#stride;
      if (!this.#isAsked) {
        this.#isAsked = true;
        ask();
      }
      if (this.#busy > this.limit) {
        const seconds = (this.limit / 1_000).toFixed(1);
        const message = `This kept the sketch busy for ${seconds} seconds without a pause, so it was stopped. If it is not endless, let it do a part of its work in each draw().`;
        onTrip(message, line);
        throw new Error(message);
      }
    };
    Object.defineProperty(globalThis, GUARD, { value: turn });
  }

  rest(): void {
    this.#busy = 0;
    this.#checked = now();
  }
}

/** The sketch's console output, in batches and only as much as anyone can read. */
class Output {
  #entries: Extract<FrameMessage, { type: 'console' }>['entries'] = [];
  #dropped = 0;

  constructor() {
    for (const level of ['log', 'info', 'warn', 'error', 'debug'] as const) {
      const original = console[level].bind(console);
      console[level] = (...values: unknown[]) => {
        if (this.#entries.length < 100) {
          this.#entries.push({ level, text: cut(printed(values)) });
          original(...values);
        } else {
          this.#dropped += 1;
        }
      };
    }
  }

  flush(post: (message: FrameMessage) => void): void {
    if (this.#entries.length > 0) {
      post({ type: 'console', entries: this.#entries, dropped: this.#dropped });
      this.#entries = [];
      this.#dropped = 0;
    }
  }
}

function load(url: string, isModule: boolean): Promise<void> {
  return new Promise((done) => {
    const script = document.createElement('script');
    script.type = isModule ? 'module' : 'text/javascript';
    script.src = url;
    script.onload = script.onerror = () => {
      script.remove();
      URL.revokeObjectURL(url);
      done();
    };
    document.head.append(script);
  });
}

/** Scales a canvas larger than the frame down; p5 accounts for the scale in mouse positions. */
function fitCanvases(): void {
  for (const canvas of document.querySelectorAll('canvas')) {
    const width = parseFloat(canvas.style.width);
    const height = parseFloat(canvas.style.height);
    if (width > 0 && height > 0) {
      const scale = Math.min(1, innerWidth / width, innerHeight / height);
      canvas.style.maxWidth = `${width * scale}px`;
      canvas.style.maxHeight = `${height * scale}px`;
    }
  }
}

function largestCanvas(): HTMLCanvasElement | null {
  const visible = [...document.querySelectorAll('canvas')].filter((canvas) => canvas.getClientRects().length > 0);
  return visible.sort((a, b) => b.width * b.height - a.width * a.height)[0] ?? null;
}

/** Right after the next frame, while a WebGL canvas still has it. */
function pngOf(canvas: HTMLCanvasElement): Promise<Blob | null> {
  return new Promise((done) => nextFrame(() => canvas.toBlob(done, 'image/png')));
}

/** Records the canvas, with sound if there is any. @returns a function that ends it, or why it cannot be recorded */
function filmed(): string | (() => Promise<Blob>) {
  const canvas = largestCanvas();
  if (!canvas) {
    return 'The sketch has no canvas to record.';
  }
  const type = ['video/webm;codecs=vp9,opus', 'video/webm;codecs=vp8,opus', 'video/webm'].find((one) =>
    MediaRecorder.isTypeSupported(one),
  );
  if (type === undefined) {
    return 'This browser does not record WebM.';
  }
  const stream = canvas.captureStream(30);
  const { Tone } = loaded;
  const speaker = Tone?.getContext().createMediaStreamDestination();
  if (Tone && speaker) {
    Tone.getDestination().connect(speaker);
    speaker.stream.getAudioTracks().forEach((track) => stream.addTrack(track));
  }
  const recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 8_000_000 });
  const pieces: Blob[] = [];
  recorder.ondataavailable = ({ data }) => pieces.push(data);
  recorder.start(1_000);
  return () =>
    new Promise((done) => {
      recorder.onstop = () => {
        if (speaker) {
          Tone?.getDestination().disconnect(speaker);
        }
        done(new Blob(pieces, { type: 'video/webm' }));
      };
      recorder.stop();
    });
}

/** Buffers input and forwards it in stretches of a quarter of a second. */
const WORKLET = `registerProcessor('darkroom-tape', class extends AudioWorkletProcessor {
  planes = [[], []]; length = 0;
  constructor() { super(); this.port.onmessage = () => { this.send(); this.port.postMessage(null); }; }
  send() {
    const whole = this.planes.map((parts) => {
      const plane = new Float32Array(this.length);
      parts.reduce((at, part) => (plane.set(part, at), at + part.length), 0);
      return plane;
    });
    if (this.length > 0) this.port.postMessage(whole, whole.map(({ buffer }) => buffer));
    this.planes = [[], []]; this.length = 0;
  }
  process([input]) {
    const [left, right = left] = input;
    if (left) {
      this.planes[0].push(left.slice()); this.planes[1].push(right.slice()); this.length += left.length;
      if (this.length >= sampleRate / 4) this.send();
    }
    return true;
  }
})`;

/** Listens to Tone's destination. @returns a function that ends it, or why there is nothing to hear */
async function taped(
  post: (message: FrameMessage, transfer: Transferable[]) => void,
): Promise<string | (() => Promise<null>)> {
  const { Tone } = loaded;
  if (!Tone) {
    return 'The sketch makes no sound: it does not use Tone.';
  }
  const context = Tone.getContext();
  const url = URL.createObjectURL(new Blob([WORKLET], { type: 'text/javascript' }));
  await context.addAudioWorkletModule(url);
  const node = context.createAudioWorkletNode('darkroom-tape', {
    channelCount: 2,
    channelCountMode: 'explicit',
    outputChannelCount: [2],
  });
  const rate = context.rawContext.sampleRate;
  let ended: (() => void) | null = null;
  node.port.onmessage = ({ data }: MessageEvent<[Float32Array<ArrayBuffer>, Float32Array<ArrayBuffer>] | null>) => {
    if (data) {
      post({ type: 'sound', rate, planes: data }, [data[0].buffer, data[1].buffer]);
    } else {
      ended?.();
    }
  };
  Tone.getDestination().connect(node);
  // Its output is silent, but unconnected nodes are not processed.
  node.connect(context.rawContext.destination as AudioNode);
  return () =>
    new Promise((done) => {
      ended = () => {
        Tone.getDestination().disconnect(node);
        node.disconnect();
        done(null);
      };
      node.port.postMessage('end');
    });
}

/** The waveform of the sound, for sketches that draw nothing themselves. */
function drawSound(): void {
  const { Tone } = loaded;
  if (!Tone) {
    return;
  }
  const canvas = document.createElement('canvas');
  const pen = canvas.getContext('2d');
  const analyser = new Tone.Analyser('waveform', 1_024);
  Tone.getDestination().connect(analyser);
  canvas.style.cssText = 'position:fixed;inset:0;width:100vw;height:100vh;z-index:-1';
  document.body.prepend(canvas);
  const draw = () => {
    nextFrame(draw);
    const density = devicePixelRatio;
    const [width, height] = [Math.round(innerWidth * density), Math.round(innerHeight * density)];
    if (!pen || width === 0 || height === 0) {
      return;
    }
    if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, { width, height });
    }
    const values = analyser.getValue();
    pen.clearRect(0, 0, width, height);
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue('accent-color');
    pen.lineWidth = 2 * density;
    pen.beginPath();
    values.forEach((value, index) => pen.lineTo((index / (values.length - 1)) * width, (0.5 - 0.45 * value) * height));
    pen.stroke();
  };
  draw();
}

/** Formats like a console: `%s` and the like take the next value, and styles are dropped. */
function printed(values: unknown[]): string {
  const [first, ...rest] = values;
  const formatted =
    typeof first === 'string'
      ? first.replace(/%([sdifoOc%])/g, (whole, kind: string) => {
          if (kind === '%') {
            return '%';
          }
          return rest.length === 0 ? whole : kind === 'c' ? (rest.shift(), '') : shown(rest.shift());
        })
      : shown(first);
  return [formatted, ...rest.map((value) => shown(value))].join(' ');
}

function shown(value: unknown): string {
  if (typeof value === 'string') {
    return value;
  }
  if (value instanceof Error) {
    return sentence(value);
  }
  if (typeof value !== 'object' || value === null) {
    return typeof value === 'function' ? `ƒ ${value.name}` : String(value);
  }
  const seen = new Set<unknown>();
  try {
    const text = JSON.stringify(value, (_, inner: unknown) => {
      if (typeof inner === 'object' && inner !== null) {
        if (seen.has(inner) || seen.size > 200) {
          return '…';
        }
        seen.add(inner);
      }
      return typeof inner === 'bigint' || typeof inner === 'function' ? String(inner).slice(0, 80) : inner;
    });
    return text ?? Object.prototype.toString.call(value);
  } catch {
    return Object.prototype.toString.call(value);
  }
}

/** The thrown value, as the console would print it. */
function sentence(thrown: unknown): string {
  return thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : `Thrown: ${shown(thrown)}`;
}

/** The innermost position in the sketch in a stack trace. */
function placeIn(thrown: unknown): CodePlace {
  const stack = thrown instanceof Error ? (thrown.stack ?? '') : '';
  const [, line, column] = new RegExp(`${SKETCH_FILE.replace('.', '\\.')}:(\\d+):(\\d+)`).exec(stack) ?? [];
  return { line: line === undefined ? null : Number(line), column: column === undefined ? null : Number(column) };
}

function cut(text: string): string {
  return text.length > 10_000 ? `${text.slice(0, 9_999)}…` : text;
}
