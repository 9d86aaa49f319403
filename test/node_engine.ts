/** An engine without a browser: ONNX Runtime for Node and arithmetic on plain arrays, for whole pictures in unit tests. */
import * as node from 'onnxruntime-node';
import { CpuArithmetic } from '../src/engine/cpu_arithmetic.ts';
import type { BlockMode } from '../src/core/job.ts';
import { Engine } from '../src/engine/engine.ts';
import { Ledger } from '../src/engine/ledger.ts';
import type { Network, RunnableGraph } from '../src/engine/runtime.ts';
import { mount } from '../src/weights/virtual_file.ts';
import { readVirtual } from './onnx_node.ts';

export interface NodeEngine {
  engine: Engine;
  /** Requests to the engine so far. */
  log: { created: number; released: number; runs: number; freeDimensions: Record<string, number>[] };
}

/**
 * @param ort a runtime other than Node's, such as the browsers' with its wasm in place
 * @param blocks see {@link Engine.blocks}
 */
export function startNodeEngine(
  ort: Pick<typeof node, 'InferenceSession' | 'Tensor'> = node,
  blocks: BlockMode = 'auto',
): NodeEngine {
  const log: NodeEngine['log'] = { created: 0, released: 0, runs: 0, freeDimensions: [] };
  const arithmetic = new CpuArithmetic(ort as typeof node);
  const createNetwork = async (graph: RunnableGraph, blobs: Map<string, Blob>): Promise<Network> => {
    const externalData = await Promise.all(
      mount(graph.externals, blobs, 'jspi').files.map(async ({ path, data }) => ({
        path,
        data: await readVirtual(data as Blob),
      })),
    );
    const session = await ort.InferenceSession.create(graph.bytes, {
      externalData,
      ...(graph.freeDimensions && { freeDimensionOverrides: graph.freeDimensions }),
      intraOpNumThreads: 1,
      logSeverityLevel: 3,
    });
    log.created += 1;
    log.freeDimensions.push(graph.freeDimensions ?? {});
    const port = (metadata: node.InferenceSession.ValueMetadata) => ({
      name: metadata.name,
      type: metadata.isTensor ? metadata.type : ('string' as const),
      dims: metadata.isTensor ? metadata.shape : [],
    });
    return {
      inputs: session.inputMetadata.map(port),
      outputs: session.outputMetadata.map(port),
      async run(inputs, outputs) {
        log.runs += 1;
        for (const [name, computed] of Object.entries(await session.run(inputs, Object.keys(outputs)))) {
          bytesOf(outputs[name]).set(bytesOf(computed));
        }
      },
      release: () => {
        log.released += 1;
        return session.release();
      },
    };
  };
  // The engine's own methods over another runtime: nothing else of it needs a browser.
  const engine = Object.assign(Object.create(Engine.prototype) as Engine, {
    runtime: { ort, build: 'jspi' },
    device: null,
    arithmetic,
    report: {
      backend: 'wasm',
      note: null,
      adapter: 'processor',
      precision: 'f32',
      limits: null,
      runtime: 'jspi',
      threads: 1,
    },
    createNetwork,
    blocks,
    ledger: new Ledger(),
  });
  return { engine, log };
}

function bytesOf(tensor: node.Tensor): Uint8Array {
  const { buffer, byteOffset, byteLength } = tensor.data as Float32Array;
  return new Uint8Array(buffer, byteOffset, byteLength);
}
