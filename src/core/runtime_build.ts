/** Which of ONNX Runtime's builds this browser gets; the service worker keeps that one. */

/** A module that multiplies and adds in one instruction, as ours of the smaller build does (`runtime.config.ts`). */
const RELAXED_SIMD = Uint8Array.from([
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 10, 20, 1, 18, 0],
  ...[0x41, 0, 0xfd, 0x11, 0x41, 0, 0xfd, 0x11, 0x41, 0, 0xfd, 0x11, 0xfd, 0x85, 2, 0x1a, 0x0b],
]);

/**
 * The smaller build wants JSPI, with which it streams weights, and relaxed SIMD.
 * @param wasm the browser's WebAssembly
 */
export function runtimeBuild(wasm: { validate(bytes: Uint8Array<ArrayBuffer>): boolean }): 'jspi' | 'asyncify' {
  return 'Suspending' in wasm && wasm.validate(RELAXED_SIMD) ? 'jspi' : 'asyncify';
}
