/** Whole published checkpoints of flow transformers, of which only headers exist, planned for GPUs that are too small for them. */
import { describe, expect, test } from 'vitest';
import type { EstimateRequest } from '../src/core/model.ts';
import { openModel } from '../src/models/family.ts';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { writeSafetensorsHeader } from '../src/weights/safetensors.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import golden from './goldens/large_flows.json';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

type Name = keyof typeof golden.checkpoints;
/** Pattern, shape, and the numbers that its # stands for: all below a count, or a list. */
type ShapeRow = [pattern: string, shape: number[], numbers?: number | number[]];

interface Part {
  /** Of its configuration. */
  changes: object;
  shapes: ShapeRow[];
}

const GB = 1e9;

/** A file of weights that takes no room: only its header can be read. */
class HollowFile extends File {
  constructor(
    name: string,
    readonly header: Uint8Array<ArrayBuffer>,
    readonly length: number,
  ) {
    super([header], name);
  }

  override get size(): number {
    return this.length;
  }
}

function hollow(name: string, rows: readonly ShapeRow[]): HollowFile {
  const tensors = rows.flatMap(([pattern, shape, numbers]) => {
    const all =
      numbers === undefined
        ? ['']
        : typeof numbers === 'number'
          ? Array.from({ length: numbers }, (_, n) => n)
          : numbers;
    return all.map((number) => [pattern.replace('#', String(number)), { dtype: 'BF16', shape }] as const);
  });
  const bytes = tensors.reduce((sum, [, { shape }]) => sum + shape.reduce((n, side) => n * side, 2), 0);
  const header = writeSafetensorsHeader(tensors);
  return new HollowFile(name, header, header.length + bytes);
}

/** The files of a published checkpoint: those of the tiny one like it, with its own configurations and tensors. */
function publishedFiles(name: Name): FolderFiles {
  const { like } = golden.checkpoints[name];
  const components = golden.checkpoints[name].components as unknown as Record<string, Part>;
  const contents: Contents = weightlessContents(like);
  const weights = new Map<string, HollowFile>();
  for (const [part, { changes, shapes }] of Object.entries(components)) {
    const path = `${part}/config.json`;
    const config = JSON.parse(new TextDecoder().decode(contents.get(path))) as object;
    contents.set(path, new TextEncoder().encode(JSON.stringify({ ...config, ...changes })));
    const own = [...contents.keys()].find((each) => each.startsWith(`${part}/`) && each.endsWith('.safetensors')) ?? '';
    contents.delete(own);
    weights.set(own, hollow(own, shapes));
  }
  const rest = filesOf(name, contents);
  return Object.assign(new FolderFiles(name, []), {
    has: (path: string) => weights.has(path) || rest.has(path),
    paths: () => [...rest.paths(), ...weights.keys()],
    blob: (path: string) => Promise.resolve(weights.get(path) ?? rest.blob(path)),
    version: (path: string) => (weights.has(path) ? `${name}/${path}` : rest.version(path)),
  });
}

async function planned(name: Name, side: number, bytes: number) {
  const { engine } = startNodeEngine();
  engine.report.backend = 'webgpu';
  const model = await openModel(publishedFiles(name), engine);
  const request: EstimateRequest = {
    operation: 'image_generation',
    width: side,
    height: side,
    batch_size: 1,
    steps: 4,
    guidance_scale: 1,
  };
  const estimate = await model.estimate(request, {
    device: engine.report,
    budget: { bytes, source: 'set' },
    rates: { measured: {}, pictures: {} },
    downloadBytes: 0,
  });
  return { estimate, parameters: model.summary.parameters };
}

describe('published checkpoints', () => {
  test.each([
    ['klein-4b', 3.87, 512, 3.5],
    ['z-image', 6.15, 512, 4],
    ['sd35-large', 8.05, 1024, 4],
    ['qwen-image', 20.4, 512, 4],
  ] as const)('%s is planned for a GPU that is too small for it', async (name, billions, side, gigabytes) => {
    const { estimate, parameters } = await planned(name, side, gigabytes * GB);
    expect(parameters).toBeGreaterThan(billions * 1e9);
    const chosen = estimate.variants.find(({ variant, runsHere }) => runsHere && variant === estimate.recommended);
    expect(estimate.recommended).not.toBeNull();
    const phases = chosen?.phases ?? [];
    for (const { phase, staying, slots, working, streamed } of phases) {
      console.log(
        `${name} ${chosen?.variant ?? ''} ${phase ?? 'together'}: ${[staying, slots, working].map((part) => (part / GB).toFixed(2)).join(' + ')} GB, ${(streamed / GB).toFixed(2)} GB streamed`,
      );
      expect(staying + slots + working).toBeLessThanOrEqual(gigabytes * GB);
    }
    expect(phases.map(({ phase }) => phase)).toEqual(['read', 'sample', 'decode']);
    const [, sample] = phases;
    expect(sample.streamed).toBeGreaterThan(0);
    expect(chosen?.blocks?.secondsPerStep).toBeGreaterThan(0);
    if (name === 'qwen-image') {
      // Ten gigabytes at 4 bits: what stays and what is streamed is all of it.
      expect(sample.staying + sample.streamed).toBeGreaterThan(9 * GB);
      expect(sample.streamed).toBeGreaterThan(6 * GB);
    }
  });
});
