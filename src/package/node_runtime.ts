/** ONNX Runtime for Node, as the engine wants a runtime. */
import { StudioError } from '../core/errors.ts';
import { Runtime, type OrtModule } from '../engine/runtime.ts';

/** @throws StudioError `worker_failed` where the package onnxruntime-node is not installed */
export async function loadNodeRuntime(threads: number): Promise<Runtime> {
  const ort = (await import('onnxruntime-node').catch((cause: unknown) => {
    throw new StudioError(
      'worker_failed',
      'The package onnxruntime-node is needed in Node and could not be loaded; install it with "npm install onnxruntime-node".',
      { cause },
    );
  })) as unknown as OrtModule;
  return Runtime.over(ort, async ({ bytes, freeDimensions }, weights) => {
    // It takes bytes only, all at once.
    const externalData = await Promise.all(
      weights.map(async ({ path, data }) => ({ path, data: await bytesOf(data) })),
    );
    return ort.InferenceSession.create(bytes, {
      externalData,
      executionProviders: ['cpu'],
      intraOpNumThreads: threads,
      graphOptimizationLevel: 'all',
      logSeverityLevel: 3,
      ...(freeDimensions && { freeDimensionOverrides: freeDimensions }),
    });
  });
}

/** All bytes of a virtual file, whose parts live only until the next one. */
async function bytesOf(file: Blob): Promise<Uint8Array> {
  const bytes = new Uint8Array(file.size);
  const reader = file.stream().getReader();
  let at = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    bytes.set(part.value, at);
    at += part.value.length;
  }
  return bytes;
}
