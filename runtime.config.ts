/**
 * ONNX Runtime's WebAssembly with a quicker product of matrices, which convolutions, linears and attention on the processor come down to.
 *
 * Its kernel computes two rows of sixteen columns at a time and loads a vector for every four multiplications of its inner loop. The one that
 * is put before it here computes more rows of eight columns, as many as the registers of x86-64 hold, and leaves what remains to the original
 * (docs/PROCESSOR.md). The package's files stay as they are: what is built gets an altered copy.
 */
import { mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Plugin } from 'vite';

const MODULES = join(import.meta.dirname, 'node_modules');
const RUNTIME = join(MODULES, 'onnxruntime-web', 'dist');
const MADE = join(MODULES, '.cache', 'darkroom');

/** Only browsers with relaxed SIMD load the first (`src/core/runtime_build.ts`), so that one may multiply and add in one instruction. */
const BUILDS = ['ort-wasm-simd-threaded.jspi.wasm', 'ort-wasm-simd-threaded.asyncify.wasm'] as const;

const fuses = (name: string) => name.includes('.jspi.');
const quick = (name: string) => withQuickProducts(readFileSync(join(RUNTIME, name)), fuses(name));

/** For builds of the page and for the dev server. */
export function quickRuntime(): Plugin {
  return {
    name: 'darkroom:quick-runtime',
    enforce: 'pre',
    configureServer({ middlewares }) {
      middlewares.use((request, response, next) => {
        const name = BUILDS.find((build) => request.url?.split('?')[0].endsWith(`/onnxruntime-web/dist/${build}`));
        if (name === undefined) {
          next();
          return;
        }
        response.setHeader('Content-Type', 'application/wasm');
        response.end(quick(name));
      });
    },
    transform(code, id) {
      if (!/\/onnxruntime-web\/dist\/ort\.\w+\.bundle\.min\.mjs$/.test(id)) {
        return null;
      }
      for (const name of BUILDS.filter((build) => code.includes(`new URL("${build}"`))) {
        mkdirSync(MADE, { recursive: true });
        // Several builds may run at once.
        const written = join(MADE, `${name}.${process.pid}`);
        writeFileSync(written, quick(name));
        renameSync(written, join(MADE, name));
        code = code.replaceAll(`new URL("${name}"`, `new URL("../../.cache/darkroom/${name}"`);
      }
      return { code, map: null };
    },
  };
}

/** For the npm package: the runtime's files in `ort/`. */
export function packagedRuntime(): Plugin {
  return {
    name: 'darkroom:packaged-runtime',
    generateBundle() {
      for (const name of readdirSync(RUNTIME).filter((file) =>
        /^ort-wasm.*\.(jspi|asyncify)\.(mjs|wasm)$/.test(file),
      )) {
        const source = name.endsWith('.wasm') ? quick(name) : readFileSync(join(RUNTIME, name));
        this.emitFile({ type: 'asset', fileName: `ort/${name}`, source });
      }
    },
  };
}

/** One of the two functions that multiply: one stores what it computed, the other adds it to what is there. */
export interface ProductKernel {
  /** Among all functions, imported ones included. */
  index: number;
  adds: boolean;
  /** As it lies in the file, from the declaration of its variables on. */
  body: Uint8Array;
  /** Where the body and, before it, its size lie in the file. */
  at: number;
  sizeAt: number;
}

interface Section {
  id: number;
  /** Of its first byte, and of its content's. */
  start: number;
  from: number;
  to: number;
}

const [I32, F32, V128] = [0x7f, 0x7d, 0x7b];

/** (A, packed B, C, countK, countM, countN, strideA, strideC, factor) → rows done; MlasSgemmKernelZero and MlasSgemmKernelAdd. */
const SIGNATURE = [0x60, 9, ...Array<number>(8).fill(I32), F32, 1, I32];
const [SPLAT, LOAD, LOAD_SPLAT, STORE, CONSTANT, ADD, MULTIPLY, FUSED] = [0x13, 0, 9, 11, 12, 0xe4, 0xe6, 0x105];
/** Both have this many, and no other function of that signature has any. */
const FEWEST_MULTIPLICATIONS = 30;

/**
 * @param wasm a module of ONNX Runtime
 * @param fused whether it may multiply and add at once
 * @throws Error if its kernels are not those that are known here
 */
export function withQuickProducts(wasm: Uint8Array, fused: boolean): Uint8Array {
  const kernels = productKernels(wasm);
  if (kernels.length !== 2 || kernels[0].adds === kernels[1].adds) {
    throw new Error('ONNX Runtime multiplies matrices in other functions than runtime.config.ts knows.');
  }
  const code = sections(wasm).find(({ id }) => id === 10) as Section;
  const parts: Uint8Array[] = [];
  let from = code.from;
  for (const { index, adds, body, at, sizeAt } of kernels) {
    const made = quickProduct(body, { self: index, adds, fused });
    parts.push(wasm.subarray(from, sizeAt), Uint8Array.from(unsigned(made.length)), made);
    from = at + body.length;
  }
  parts.push(wasm.subarray(from, code.to));
  const content = Buffer.concat(parts);
  const head = Uint8Array.from([10, ...unsigned(content.length)]);
  return Buffer.concat([wasm.subarray(0, code.start), head, content, wasm.subarray(code.to)]);
}

/** The functions that multiply matrices of f32. */
export function productKernels(wasm: Uint8Array): ProductKernel[] {
  const all = sections(wasm);
  const reader = (id: number) => new Reader(wasm, (all.find((one) => one.id === id) as Section).from);
  const types = reader(1);
  const fitting = Array.from({ length: types.unsigned() }, () => {
    const start = types.at++;
    types.skip();
    types.skip();
    return Buffer.from(wasm.subarray(start, types.at)).equals(Uint8Array.from(SIGNATURE));
  });
  const imported = importedFunctions(reader(2));
  const functions = reader(3);
  const typeOf = Array.from({ length: functions.unsigned() }, () => functions.unsigned());
  const code = reader(10);
  code.unsigned();
  return typeOf.flatMap((type, n) => {
    const sizeAt = code.at;
    const size = code.unsigned();
    const at = code.at;
    code.at += size;
    const body = wasm.subarray(at, at + size);
    const [added, multiplied] = [ADD, MULTIPLY].map((op) => (fitting[type] ? count(body, [0xfd, op, 1]) : 0));
    const index = imported + n;
    return multiplied < FEWEST_MULTIPLICATIONS ? [] : [{ index, adds: added > multiplied, body, at, sizeAt }];
  });
}

/**
 * The function with a quicker way before what it does by itself, which is left what the way does not take: fewer rows, and the last columns.
 * @param self its index, for calling itself
 */
export function quickProduct(
  body: Uint8Array,
  { self, adds, fused }: { self: number; adds: boolean; fused: boolean },
): Uint8Array {
  const reader = new Reader(body, 0);
  const groups = reader.unsigned();
  const groupsAt = reader.at;
  let free = SIGNATURE[1];
  for (let group = 0; group < groups; group++) {
    free += reader.unsigned();
    reader.at++;
  }
  const { code, vectors, numbers } = quickWay(free, { self, adds, fused });
  return Buffer.concat([
    Uint8Array.from(unsigned(groups + 2)),
    body.subarray(groupsAt, reader.at),
    Uint8Array.from([...unsigned(vectors), V128, ...unsigned(numbers), I32, ...code]),
    body.subarray(reader.at),
  ]);
}

/** Columns that lie side by side in the packed matrix, and floats of a vector. */
const [PANEL, LANES] = [16, 4];
/** Vectors of a row that are summed up at a time. */
const WIDE = 2;

/** @param free the first variable that is not in use */
function quickWay(free: number, { self, adds, fused }: { self: number; adds: boolean; fused: boolean }) {
  // With sums, two vectors of B and one of A all 15 registers are full; a product of its own needs one more.
  const [rows, unrolled] = fused ? [6, 2] : [4, 4];
  const [a, b, c, countK, countM, countN, strideA, strideC, factor] = Array(9).keys();
  let next = free;
  const variables = (length: number) => Array.from({ length }, () => next++);
  const sums = variables(rows * WIDE);
  const columns = variables(WIDE);
  const [value, factors] = variables(2);
  const vectors = next - free;
  const row = variables(rows);
  const [panel, k, target, bytesA, bytesC] = variables(5);
  const numbers = next - free - vectors;

  const code: number[] = [];
  const get = (variable: number) => code.push(0x20, ...unsigned(variable));
  const set = (variable: number) => code.push(0x21, ...unsigned(variable));
  const int = (constant: number) => code.push(0x41, ...signed(constant));
  const [add, subtract, multiply, atLeast, and] = [0x6a, 0x6b, 0x6c, 0x4f, 0x71];
  const op = (...bytes: number[]) => code.push(...bytes);
  const simd = (operation: number, ...immediate: number[]) => code.push(0xfd, ...unsigned(operation), ...immediate);
  /** Floats lie at multiples of four bytes. */
  const memory = (operation: number, offset: number) => {
    simd(operation, 2, ...unsigned(offset));
  };
  const move = (variable: number, by: number, direction = add) => {
    get(variable);
    int(by);
    op(direction);
    set(variable);
  };
  const bytesOf = (stride: number, into: number) => {
    get(stride);
    int(4);
    op(multiply);
    set(into);
  };
  const when = (block: () => void) => {
    op(0x04, 0x40);
    block();
    op(0x0b);
  };
  /** Repeats while `block` leaves something other than 0. */
  const repeat = (block: () => void) => {
    op(0x03, 0x40);
    block();
    op(0x0d, 0, 0x0b);
  };
  const hasAtLeast = (variable: number, least: number) => {
    get(variable);
    int(least);
    op(atLeast);
  };

  const sumUp = (times: number) => {
    for (let step = 0; step < times; step++) {
      columns.forEach((column, n) => {
        get(panel);
        memory(LOAD, 4 * (PANEL * step + LANES * n));
        set(column);
      });
      row.forEach((pointer, n) => {
        get(pointer);
        memory(LOAD_SPLAT, 4 * step);
        set(value);
        columns.forEach((column, m) => {
          const sum = sums[n * WIDE + m];
          get(value);
          get(column);
          if (fused) {
            get(sum);
            simd(FUSED);
          } else {
            simd(MULTIPLY);
            get(sum);
            simd(ADD);
          }
          set(sum);
        });
      });
    }
    move(panel, 4 * PANEL * times);
    row.forEach((pointer) => {
      move(pointer, 4 * times);
    });
    move(k, times, subtract);
  };

  /** Rows of some columns of the panel. */
  const block = (first: number) => {
    row.forEach((pointer, n) => {
      get(n === 0 ? a : row[n - 1]);
      if (n > 0) {
        get(bytesA);
        op(add);
      }
      set(pointer);
    });
    [[b, panel] as const, [c, target] as const].forEach(([from, to]) => {
      get(from);
      int(4 * first);
      op(add);
      set(to);
    });
    get(countK);
    set(k);
    sums.forEach((sum) => {
      simd(CONSTANT, ...Array<number>(16).fill(0));
      set(sum);
    });
    hasAtLeast(k, unrolled);
    when(() => {
      repeat(() => {
        sumUp(unrolled);
        hasAtLeast(k, unrolled);
      });
    });
    get(k);
    when(() => {
      repeat(() => {
        sumUp(1);
        get(k);
      });
    });
    get(factor);
    simd(SPLAT);
    set(factors);
    sums.forEach((sum, n) => {
      const offset = 4 * LANES * (n % WIDE);
      get(target);
      get(sum);
      get(factors);
      simd(MULTIPLY);
      if (adds) {
        get(target);
        memory(LOAD, offset);
        simd(ADD);
      }
      memory(STORE, offset);
      if (n % WIDE === WIDE - 1) {
        get(target);
        get(bytesC);
        op(add);
        set(target);
      }
    });
  };

  hasAtLeast(countM, rows);
  hasAtLeast(countN, PANEL);
  op(and);
  when(() => {
    bytesOf(strideA, bytesA);
    bytesOf(strideC, bytesC);
    repeat(() => {
      for (let first = 0; first < PANEL; first += WIDE * LANES) {
        block(first);
      }
      get(b);
      get(countK);
      int(4 * PANEL);
      op(multiply, add);
      set(b);
      move(c, 4 * PANEL);
      move(countN, PANEL, subtract);
      hasAtLeast(countN, PANEL);
    });
    get(countN);
    when(() => {
      // By itself it does two rows at a time.
      for (let n = 0; n < rows; n += 2) {
        const moved = (pointer: number, bytes: number) => {
          get(pointer);
          get(bytes);
          int(n);
          op(multiply, add);
        };
        moved(a, bytesA);
        get(b);
        moved(c, bytesC);
        get(countK);
        int(2);
        [countN, strideA, strideC, factor].forEach(get);
        op(0x10, ...unsigned(self), 0x1a);
      }
    });
    int(rows);
    op(0x0f);
  });
  return { code, vectors, numbers };
}

class Reader {
  constructor(
    readonly bytes: Uint8Array,
    public at: number,
  ) {}

  /** LEB128. */
  unsigned(): number {
    let [value, factor] = [0, 1];
    for (;;) {
      const byte = this.bytes[this.at++];
      value += (byte & 0x7f) * factor;
      factor *= 0x80;
      if (byte < 0x80) {
        return value;
      }
      if (this.at >= this.bytes.length) {
        throw new Error('The module ends in the middle of a number.');
      }
    }
  }

  /** Bytes whose number comes first. */
  skip(): void {
    const length = this.unsigned();
    this.at += length;
  }
}

function sections(wasm: Uint8Array): Section[] {
  const found: Section[] = [];
  const reader = new Reader(wasm, 8);
  while (reader.at < wasm.length) {
    const start = reader.at++;
    const size = reader.unsigned();
    found.push({ id: wasm[start], start, from: reader.at, to: reader.at + size });
    reader.at += size;
  }
  return found;
}

function importedFunctions(reader: Reader): number {
  let functions = 0;
  for (let left = reader.unsigned(); left > 0; left--) {
    reader.skip();
    reader.skip();
    const kind = reader.bytes[reader.at++];
    // A function's or a tag's type, a global's, a table's elements.
    reader.at += kind === 3 ? 2 : kind === 1 || kind === 4 ? 1 : 0;
    if (kind === 0 || kind === 4) {
      reader.unsigned();
      functions += kind === 0 ? 1 : 0;
    } else if (kind !== 3) {
      const limits = reader.bytes[reader.at++];
      reader.unsigned();
      if (limits & 1) {
        reader.unsigned();
      }
    }
  }
  return functions;
}

function count(bytes: Uint8Array, pattern: readonly number[]): number {
  const found = Uint8Array.from(pattern);
  let [times, at] = [0, -1];
  while ((at = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).indexOf(found, at + 1)) >= 0) {
    times++;
  }
  return times;
}

function unsigned(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(value >>> 7)];
}

function signed(value: number): number[] {
  return value >= -0x40 && value < 0x40 ? [value & 0x7f] : [(value & 0x7f) | 0x80, ...signed(value >> 7)];
}
