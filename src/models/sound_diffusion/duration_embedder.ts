/**
 * How long a sound is to be, as Stable Audio 3's transformer is told. One row of numbers, computed on the processor.
 * Reference: diffusers/pipelines/stable_audio_3/modeling_stable_audio_3.py
 */
import * as v from 'valibot';
import { linspace } from '../../core/linspace.ts';
import { count, parseNetworkConfig, real } from '../../graphs/config.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { storedNumbers } from './stored_numbers.ts';

export const className = 'StableAudio3DurationEmbedder';

const configSchema = v.pipe(
  v.object({
    output_dim: count(768),
    fourier_dim: count(256),
    min_val: real(0),
    max_val: real(384),
    min_freq: v.optional(v.pipe(v.number(), v.gtValue(0)), 0.5),
    max_freq: v.optional(v.pipe(v.number(), v.gtValue(0)), 10_000),
  }),
  v.check(({ min_val, max_val }) => min_val < max_val, 'its min_val is not below its max_val'),
  v.check(({ fourier_dim }) => fourier_dim % 2 === 0, 'its fourier_dim is odd'),
);

export class DurationEmbedder {
  readonly config: v.InferOutput<typeof configSchema>;
  readonly #component: Component;

  /** @throws StudioError `checkpoint_unsupported` */
  constructor(component: Component) {
    this.config = parseNetworkConfig(className, configSchema, component.config);
    this.#component = component;
  }

  /** @param seconds beyond those that it knows, it says the longest @returns [output_dim] */
  async embed(files: Pick<CheckpointFiles, 'blob'>, seconds: number): Promise<Float32Array<ArrayBuffer>> {
    const { output_dim: width, fourier_dim, min_val: least, max_val: greatest } = this.config;
    const f = Math.fround;
    const half = fourier_dim / 2;
    const share = f(f(Math.min(Math.max(f(seconds), least), greatest) - least) / (greatest - least));
    const read = (name: string, length: number) => storedNumbers(files, this.#component, name, length);
    const [speeds, bias] = await Promise.all([
      this.#component.weights.get('freqs') ? read('freqs', half) : this.#speeds(half),
      read('linear.bias', width),
    ]);
    const weights = await read('linear.weight', width * fourier_dim);
    const angles = speeds.map((speed) => f(f(share * speed) * 2) * f(Math.PI));
    const waves = Float32Array.from([...angles.map(Math.cos), ...angles.map(Math.sin)]);
    return bias.map((start, row) =>
      waves.reduce((sum, wave, column) => sum + wave * weights[row * fourier_dim + column], start),
    );
  }

  /** Of which only diffusers keeps a copy with the weights. */
  #speeds(count: number): Float32Array<ArrayBuffer> {
    const { min_freq: slowest, max_freq: fastest } = this.config;
    const [least, range] = [Math.log(slowest), Math.log(fastest) - Math.log(slowest)];
    const f = Math.fround;
    return Float32Array.from(linspace(0, 1, count), (share) => Math.exp(f(f(f(share) * f(range)) + f(least))));
  }
}
