/** Autoencoders in place of a checkpoint's own: what fits, what is refused and recorded; their pictures are compared by test/fidelity/pictures.ts. */
import 'fake-indexeddb/auto';
import { expect, test, vi } from 'vitest';
import { openModel } from '../src/models/family.ts';
import type { LatentDiffusion } from '../src/models/latent_diffusion/latent_diffusion.ts';
import { additionIn } from '../src/weights/library/addition_kinds.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import { architectureFile, architectureFiles, renamed, same } from './architecture_checkpoints.ts';
import { startNodeEngine } from './node_engine.ts';

const open = () => openModel(architectureFiles('sd1'), startNodeEngine().engine);

/** A decoder of AutoencoderTiny for so many channels, of 2^(blocks − 1) pixels per latent. */
function tinyDecoder(channels: number, blocks: number): Blob {
  const entries: [string, { dims: number[]; data: Float32Array<ArrayBuffer> }][] = [];
  const layer = (name: string, dims: number[]) => {
    const count = dims.reduce((product, dim) => product * dim, 1);
    entries.push([name, { dims, data: new Float32Array(count) }]);
  };
  let number = 0;
  layer('decoder.layers.0.weight', [8, channels, 3, 3]);
  layer('decoder.layers.0.bias', [8]);
  number += 2;
  for (let block = 0; block < blocks; block++) {
    const last = block === blocks - 1;
    for (const inside of ['conv.0', 'conv.2', 'conv.4']) {
      layer(`decoder.layers.${number}.${inside}.weight`, [8, 8, 3, 3]);
      layer(`decoder.layers.${number}.${inside}.bias`, [8]);
    }
    number += last ? 1 : 2;
    layer(`decoder.layers.${number}.weight`, [last ? 3 : 8, 8, 3, 3]);
    if (last) {
      layer(`decoder.layers.${number}.bias`, [3]);
    }
    number++;
  }
  return new Blob([writeSafetensors(entries)]);
}

test('a VAE is known by its header in every layout, and a checkpoint is none', async () => {
  for (const file of [
    renamed('vae-kl', same),
    renamed('vae-kl-original', same),
    renamed('vae-kl-original', (name) => name.replace('first_stage_model.', '')),
    renamed('vae-tiny', same),
    tinyDecoder(4, 3),
  ]) {
    expect(await additionIn(file, 'x')).toBe('vae');
    await (await open()).checkAddition?.('vae', { file, name: 'x' });
  }
  expect(await additionIn(new Blob([architectureFile('sdxl.safetensors')]), 'x')).toBe(null);
});

test.each<[string, Blob, string]>([
  [
    'for latents of other channels',
    tinyDecoder(16, 3),
    'The VAE "x" was made for another kind of model: its latent_channels is 16, and that of "sd1" is 4; choose one for this kind of checkpoint.',
  ],
  [
    'for latents of another size',
    tinyDecoder(4, 4),
    'The VAE "x" was made for another kind of model: its number of pixels per latent is 8, and that of "sd1" is 4; choose one for this kind of checkpoint.',
  ],
  [
    'with a tensor that is unknown',
    renamed('vae-kl-original', (name) => name.replace('decoder.norm_out', 'decoder.norm_more')),
    'The VAE "x" has a tensor "first_stage_model.decoder.norm_more.weight" that Darkroom does not know; choose another one.',
  ],
  [
    'that is incomplete',
    renamed('vae-kl', (name) => (name === 'decoder.conv_out.bias' ? null : name)),
    'The checkpoint lacks the tensor "decoder.conv_out.bias" of its AutoencoderKL decoder; download or copy it again, or choose another checkpoint.',
  ],
])('one %s is refused in one sentence, and nothing is changed', async (_, file, message) => {
  const model = await open();
  await model.useAdditions?.({ vaes: [{ file: renamed('vae-kl', same), name: 'good' }] });
  await expect(model.useAdditions?.({ vaes: [{ file, name: 'x' }] })).rejects.toMatchObject({ message });
  expect((await model.provenance()).vae).toMatchObject({ name: 'good' });
});

test('one is recorded in place of the own one, which comes back without it', async () => {
  const model = await open();
  const own = (await model.provenance()) as { checkpoint: { sha256: object } };
  await model.useAdditions?.({
    vaes: [{ file: renamed('vae-tiny', same), name: 'tiny', ref: 'vae:import:tiny', sha256: 'abc' }],
  });
  const used = (await model.provenance()) as { vae: object; checkpoint: { sha256: object } };
  expect(used.vae).toEqual({ vae: 'vae:import:tiny', name: 'tiny', sha256: 'abc' });
  expect(used.checkpoint.sha256).not.toHaveProperty([VAE]);
  await model.useAdditions?.({});
  const back = await model.provenance();
  expect(back).toEqual(own);
  expect(own.checkpoint.sha256).toHaveProperty([VAE]);
});

const VAE = 'vae/diffusion_pytorch_model.safetensors';

test('a decoder alone makes pictures, and cannot start from one', async () => {
  const model = await open();
  await model.useAdditions?.({ vaes: [{ file: tinyDecoder(4, 3), name: 'half' }] });
  const picture = { width: 32, height: 32, data: new Uint8ClampedArray(4 * 32 * 32) };
  const random = { ofPosterior: () => null } as never;
  await expect(model.encodeImage(picture, { width: 32, height: 32, batch_size: 1, random })).rejects.toThrow(
    '"half" has no encoder in its autoencoder (VAE), so it cannot start from a picture; make one from words alone, or choose a checkpoint that is complete.',
  );
});

test('a quick one shows the picture first, and the one that is kept is of the own one', async () => {
  const model = (await open()) as LatentDiffusion;
  const tiny = { file: renamed('vae-tiny', same), name: 'quick' };
  const dims = [2, 4, 4, 4];
  const data = Float32Array.from({ length: 128 }, (_, i) => Math.sin(i));
  const latents = model.latentsFrom({ dims, data });
  const request = { signal: new AbortController().signal, onPart: () => undefined };
  const own = await model.decode(latents, request);
  expect(await model.firstLook(latents)).toBeNull();
  await model.useAdditions({ vaes: [tiny] });
  const [quick] = await model.decode(latents, request);
  await model.useAdditions({ first_vaes: [tiny] });
  const shown: Uint8ClampedArray[] = [];
  const canvas = {
    width: 0,
    height: 0,
    getContext: () => ({ putImageData: (image: ImageData) => shown.push(image.data) }),
  };
  vi.stubGlobal(
    'ImageData',
    class {
      constructor(readonly data: Uint8ClampedArray) {}
    },
  );
  (await model.firstLook(latents))?.(canvas as unknown as OffscreenCanvas);
  vi.unstubAllGlobals();
  expect([canvas.width, canvas.height]).toEqual([quick.width, quick.height]);
  expect(shown).toEqual([quick.data]);
  expect(shown).not.toEqual([own[0].data]);
  expect(model.onDevice).not.toContain('first_decoder');
  expect(await model.decode(latents, request)).toEqual(own);
  const told = await model.provenance();
  expect(told).toMatchObject({ first_vae: { name: 'quick' } });
  expect(told).not.toHaveProperty('vae');
  await model.useAdditions({});
  expect(await model.firstLook(latents)).toBeNull();
});
