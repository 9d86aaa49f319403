/**
 * Models in files of their own, `.safetensors` and `.gguf`: what is told of them, and what is refused. Their pictures are cells of
 * `test/fidelity/split_files.ts`.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { openModel, type LoadedModel } from '../src/models/family.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength, writeSafetensors } from '../src/weights/safetensors.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { ggufFile } from './gguf_file.ts';
import { startNodeEngine } from './node_engine.ts';
import {
  splitFiles,
  splitFlux1,
  splitFlux1Gguf,
  splitFlux2,
  splitFlux2Dev,
  splitFlux3,
  splitLtx,
  splitQwenImage,
  splitQwenLayered,
  splitWan,
  splitWanExperts,
  splitZImage,
  VOCABULARIES,
} from './split_files.ts';
import { originalLayoutFile } from './weightless_checkpoints.ts';

function open(contents: Contents, name = 'models', weights: 'full' | 'q8' | 'q4' = 'full'): Promise<LoadedModel> {
  return openModel(filesOf(name, contents), startNodeEngine().engine, { weights });
}

// CLIP's vocabulary is an asset of the page, which Node reads from disk.
beforeAll(() => {
  vi.stubGlobal('fetch', (url: URL) => Promise.resolve(new Response(readFileSync(fileURLToPath(url)))));
});
afterAll(() => {
  vi.unstubAllGlobals();
});

test('what is told of a GGUF: its files, and that its own 4 bits stay on the device', async () => {
  const { summary } = await open(splitFlux1Gguf(), 'flux1-dev-Q4_0.gguf');
  expect(summary).toMatchObject({
    name: 'flux1-dev-Q4_0',
    pipelineClass: 'FluxPipeline',
    needs: [
      'text_encoders/clip_l.safetensors',
      'text_encoders/t5xxl_fp16.safetensors',
      'vae/ae.safetensors',
      'text_encoders/spiece.model',
      'flux1-dev-Q4_0.gguf',
    ],
    variants: ['full', 'q8', 'q4'],
    defaults: { steps: 28, guidance_scale: 3.5 },
  });
  const { summary: whole } = await open(splitFlux1());
  expect(summary.memoryBytes).toBeLessThan(whole.memoryBytes);
});

test.each([
  ['Qwen-Image', 'qwen_image', splitQwenImage],
  ['FLUX.2 klein', 'flux2', splitFlux2],
  ['FLUX.2 dev', 'flux2_dev', splitFlux2Dev],
  ['FLUX.3 klein', 'flux3', splitFlux3],
  ['Wan', 'wan', splitWan],
])('%s in one file is the same as in several', async (_, name, split) => {
  const several = split();
  const vocabulary = [...several].filter(([path]) => !path.endsWith('.safetensors'));
  const own = vocabulary.length > 0 ? vocabulary : ([['spiece.model', new Uint8Array(VOCABULARIES.t5)]] as const);
  const { summary } = await open(new Map([['whole.safetensors', originalLayoutFile(name)], ...own]));
  const { parameters, pipelineClass, memoryBytes, samplers, multiple } = (await open(several)).summary;
  expect(summary).toMatchObject({ parameters, pipelineClass, memoryBytes, samplers, multiple });
});

test('LTX-Video in one file is told from its version what it can do', async () => {
  const older = (await open(splitLtx('ltx_file'))).summary;
  const newer = (await open(splitLtx('ltx_file_095'))).summary;
  expect([older.pipelineClass, older.lastFrame]).toEqual(['LTXPipeline', undefined]);
  expect([newer.pipelineClass, newer.lastFrame]).toEqual(['LTXConditionPipeline', 'may']);
  expect(newer).toMatchObject({ firstFrame: 'may', mostFrames: 1025, multiple: 32 });
  expect([...newer.needs].sort()).toEqual([
    'ltx-video-2b.safetensors',
    'text_encoders/spiece.model',
    'text_encoders/t5xxl_fp16.safetensors',
  ]);
});

describe('refused in a sentence is', () => {
  /** Everything except what a picked file is meant to lack. */
  const without = (contents: Contents, ...patterns: RegExp[]): Contents =>
    new Map([...contents].filter(([path]) => !patterns.some((pattern) => pattern.test(path))));

  /** A file of empty tensors of these names. */
  const named = (...names: string[]) =>
    writeSafetensors(names.map((name) => [name, { dims: [0], data: new Float32Array() }]));

  test.each<[string, Contents, string | RegExp]>([
    [
      'a transformer alone',
      without(splitFlux1Gguf(), /^text_encoders|^vae/),
      'flux1-dev-Q4_0.gguf is FLUX.1 without its CLIP (clip_l), autoencoder (VAE) and T5 (t5xxl); choose what is missing with it, or a folder that holds all of it: clip_l.safetensors (comfyanonymous/flux_text_encoders), ae.safetensors (Comfy-Org/Lumina_Image_2.0_Repackaged), t5xxl_fp16.safetensors (comfyanonymous/flux_text_encoders), spiece.model (google/t5-v1_1-xxl). A diffusers folder has everything in it.',
    ],
    [
      'one that lacks its autoencoder',
      without(splitZImage(), /^vae/),
      '"models" is Z-Image without its autoencoder (VAE); choose what is missing with it, or a folder that holds all of it: ae.safetensors (Comfy-Org/Lumina_Image_2.0_Repackaged). A diffusers folder has everything in it.',
    ],
    [
      'one without a vocabulary',
      without(splitZImage(), /tokenizer/),
      `"models" does not have Qwen3's vocabulary in it, as no such file has, and Z-Image cannot read words without it; choose tokenizer.json (Qwen/Qwen3-4B) with it, or a folder that holds both.`,
    ],
    [
      'FLUX.3 with the Qwen3 of FLUX.2',
      new Map([
        ...without(splitFlux3(), /^text_encoders\/qwen/),
        ...[...splitFlux2()].filter(([path]) => path.startsWith('text_encoders/qwen')),
      ]),
      '"models" is FLUX.3 klein without its Qwen3-VL (qwen3vl_4b); choose what is missing with it, or a folder that holds all of it: qwen3vl_4b_bf16.safetensors (Comfy-Org/Krea-2). A diffusers folder has everything in it.',
    ],
    [
      'the same part twice',
      new Map([...splitZImage(), ['vae/other.safetensors', splitFiles('z_image').get('vae/ae.safetensors')!]]),
      'vae/ae.safetensors and vae/other.safetensors in "models" hold the same part of a model; choose only the files that belong together.',
    ],
    [
      'no transformer',
      without(splitZImage(), /^diffusion_models/),
      'Darkroom finds no model in "models" that it can run: text_encoders/qwen_3_4b.safetensors (Qwen3), vae/ae.safetensors (VAE). It runs transformers of FLUX.1, FLUX.2, FLUX.3, LTX-Video, Qwen-Image, Stable Diffusion 3, Wan and Z-Image together with their text encoders and autoencoder, and diffusers folders.',
    ],
    [
      'a GGUF of another architecture',
      new Map([['wan.gguf', ggufFile({ metadata: { 'general.architecture': 'wan' } })]]),
      'Darkroom finds no model in "models" that it can run: wan.gguf (wan). It runs transformers of FLUX.1, FLUX.2, FLUX.3, LTX-Video, Qwen-Image, Stable Diffusion 3, Wan and Z-Image together with their text encoders and autoencoder, and diffusers folders.',
    ],
    [
      'Qwen-Image without its text encoder',
      without(splitQwenImage(), /^text_encoders/),
      '"models" is Qwen-Image without its Qwen2.5-VL (qwen_2.5_vl_7b); choose what is missing with it, or a folder that holds all of it: qwen_2.5_vl_7b_fp8_scaled.safetensors (Comfy-Org/Qwen-Image_ComfyUI), tokenizer.json (Qwen/Qwen2.5-VL-7B-Instruct). A diffusers folder has everything in it.',
    ],
    [
      'Qwen-Image-Layered without its autoencoder',
      without(splitQwenLayered(), /^vae/),
      '"models" is Qwen-Image-Layered without its autoencoder (VAE); choose what is missing with it, or a folder that holds all of it: qwen_image_layered_vae.safetensors (Comfy-Org/Qwen-Image-Layered_ComfyUI). A diffusers folder has everything in it.',
    ],
    [
      'Qwen-Image-Layered with the autoencoder of Qwen-Image',
      new Map([...splitQwenLayered(), ['vae/ae.safetensors', splitFiles('qwen_image').get('vae/ae.safetensors')!]]),
      'The autoencoder of "models" knows no transparency, which Qwen-Image-Layered makes layers with; choose qwen_image_layered_vae.safetensors (Comfy-Org/Qwen-Image-Layered_ComfyUI) in its place.',
    ],
    [
      'Qwen-Image with the autoencoder of layers',
      new Map([
        ...splitQwenImage(),
        ['vae/ae.safetensors', splitFiles('qwen_image_layered').get('vae/ae.safetensors')!],
      ]),
      'The autoencoder of "models" is the one of Qwen-Image-Layered; choose qwen_image_vae.safetensors (Comfy-Org/Qwen-Image_ComfyUI) in its place.',
    ],
    [
      'FLUX.2 klein with the autoencoder of FLUX.1',
      new Map([...splitFlux2(), ['vae/ae.safetensors', splitFiles('flux1').get('vae/ae.safetensors')!]]),
      '"models" is FLUX.2 klein without its autoencoder (VAE); choose what is missing with it, or a folder that holds all of it: flux2-vae.safetensors (Comfy-Org/flux2-dev). A diffusers folder has everything in it.',
    ],
    [
      'Wan alone, whose text encoder brings the vocabulary',
      without(splitWan(), /^text_encoders|^vae/),
      'diffusion_models/transformer.safetensors is Wan without its UMT5 (umt5_xxl) and autoencoder (VAE); choose what is missing with it, or a folder that holds all of it: umt5_xxl_fp8_e4m3fn_scaled.safetensors (Comfy-Org/Wan_2.1_ComfyUI_repackaged), wan_2.1_vae.safetensors (Comfy-Org/Wan_2.1_ComfyUI_repackaged). A diffusers folder has everything in it.',
    ],
    [
      'LTX-Video without its text encoder',
      without(splitLtx('ltx_file'), /^text_encoders/),
      'ltx-video-2b.safetensors is LTX-Video without its T5 (t5xxl); choose what is missing with it, or a folder that holds all of it: t5xxl_fp16.safetensors (comfyanonymous/flux_text_encoders), spiece.model (google/t5-v1_1-xxl). A diffusers folder has everything in it.',
    ],
    [
      'LTX-Video 0.9.1, whose decoder adds noise',
      new Map([
        ...splitLtx('ltx_file_095'),
        ['noise.safetensors', named('vae.decoder.up_blocks.0.res_blocks.0.per_channel_scale1')],
      ]),
      /decoder_inject_noise/,
    ],
    [
      'LTX-2',
      new Map([
        ...without(splitLtx('ltx_file'), /ltx-video/),
        [
          'ltx-2.safetensors',
          named(
            'patchify_proj.weight',
            'adaln_single.linear.weight',
            'caption_projection.linear_1.weight',
            'audio_adaln_single.linear.weight',
          ),
        ],
      ]),
      'ltx-2.safetensors is LTX-2, which Darkroom cannot run; choose LTX-Video, such as 0.9.5.',
    ],
    [
      'one of the two transformers of Wan 2.2',
      without(splitWanExperts(), /low_noise/),
      'diffusion_models/wan2.2_t2v_high_noise_14B_fp16.safetensors is one of the two transformers of Wan 2.2 A14B, that for high noise; choose the other one with it.',
    ],
    [
      'the other one',
      without(splitWanExperts(), /high_noise/),
      'diffusion_models/wan2.2_t2v_low_noise_14B_fp16.safetensors is one of the two transformers of Wan 2.2 A14B, that for low noise; choose the other one with it.',
    ],
    [
      'the autoencoder of Wan 2.2 5B with a transformer of 2.1',
      new Map([...splitWan(), ['vae/ae.safetensors', splitFiles('wan_ti2v').get('vae/ae.safetensors')!]]),
      'The transformer of "models" takes latents of 16 channels and its autoencoder gives 48; choose wan_2.1_vae.safetensors (Comfy-Org/Wan_2.1_ComfyUI_repackaged) in its place.',
    ],
    [
      'Wan 2.1 from pictures without what sees them',
      without(splitFiles('wan_flf2v'), /^clip_vision/),
      '"models" is Wan without its CLIP vision encoder (clip_vision_h); choose what is missing with it, or a folder that holds all of it: clip_vision_h.safetensors (Comfy-Org/Wan_2.1_ComfyUI_repackaged). A diffusers folder has everything in it.',
    ],
    [
      'Wan 2.2 5B without its autoencoder, which is its own',
      without(splitFiles('wan_ti2v'), /^vae/),
      /without its autoencoder \(VAE\);.*: wan2\.2_vae\.safetensors \(Comfy-Org/,
    ],
    [
      'the transformer of FLUX.2 dev alone',
      new Map([
        [
          'flux2_dev.safetensors',
          named(
            'double_blocks.0.img_attn.qkv.weight',
            'single_stream_modulation.lin.weight',
            'guidance_in.in_layer.weight',
          ),
        ],
      ]),
      'flux2_dev.safetensors is FLUX.2 dev without its Mistral (mistral_3_small) and autoencoder (VAE); choose what is missing with it, or a folder that holds all of it: mistral_3_small_flux2_fp8.safetensors (Comfy-Org/flux2-dev), flux2-vae.safetensors (Comfy-Org/flux2-dev), tokenizer.json (black-forest-labs/FLUX.2-dev). A diffusers folder has everything in it.',
    ],
    [
      'FLUX.2 dev without its vocabulary',
      without(splitFlux2Dev(), /tokenizer/),
      `"models" does not have Mistral's vocabulary in it, as no such file has, and FLUX.2 dev cannot read words without it; choose tokenizer.json (black-forest-labs/FLUX.2-dev) with it, or a folder that holds both.`,
    ],
    [
      'FLUX.2 dev with the text encoder of klein',
      new Map([
        ...without(splitFlux2Dev(), /mistral|tokenizer/),
        ...[...splitFlux2()].filter(([path]) => /^text_encoders/.test(path)),
      ]),
      'The transformer of "models" takes guidance and was trained with Mistral, and its text encoder is Qwen3; choose mistral_3_small_flux2_fp8.safetensors (Comfy-Org/flux2-dev) in its place.',
    ],
    ...(
      [
        ['NF4 (bitsandbytes)', ['double_blocks.0.img_attn.qkv.weight.quant_state.bitsandbytes__nf4']],
        ['SVDQuant (Nunchaku)', ['transformer_blocks.0.qkv_proj.qweight', 'transformer_blocks.0.qkv_proj.wscales']],
        ['int8 (torchao)', ['transformer_blocks.0.attn.to_q._weight_qdata']],
        [
          'NVFP4',
          [
            'txt_norm.weight',
            'transformer_blocks.0.attn.add_q_proj.weight',
            'transformer_blocks.0.img_mod.1.weight',
            'transformer_blocks.0.img_mod.1.weight_scale_2',
          ],
        ],
      ] as const
    ).map(
      ([format, names]) =>
        [
          `a transformer of ${format}`,
          new Map([['packed.safetensors', named(...names)]]),
          `packed.safetensors has its weights packed as ${format}, which Darkroom cannot run; get this model in BF16, F16 or 8-bit floating point (fp8), or as a GGUF file.`,
        ] as [string, Contents, string],
    ),
    [
      'a GGUF that breaks off',
      new Map([['flux.gguf', splitFlux1Gguf().get('flux1-dev-Q4_0.gguf')!.slice(0, 90_000)]]),
      /^The file flux\.gguf is damaged: it ends after 90000 bytes, but ".*" reaches to \d+; get it again\.$/,
    ],
  ])('%s', async (_, contents, message) => {
    await expect(open(contents)).rejects.toThrow(message);
  });

  test('a GGUF with a type that is not known', async () => {
    const contents = splitFlux1Gguf();
    const file = contents.get('flux1-dev-Q4_0.gguf')!;
    // The number of the type follows the name, the rank and the two sides.
    const name = new TextEncoder().encode('double_blocks.0.img_attn.qkv.weight');
    const at = file.findIndex((_, i) => name.every((byte, k) => file[i + k] === byte)) + name.length + 4 + 16;
    new DataView(file.buffer, file.byteOffset).setUint32(at, 16, true);
    await expect(open(contents)).rejects.toThrow(
      /^flux1-dev-Q4_0\.gguf has its weights stored as IQ2_XXS \(such as "double_blocks\.0\.img_attn\.qkv\.weight"\), which Darkroom cannot read; get this model as Q8_0/,
    );
  });

  /** The file of another size: `sides` gives those that change. */
  function resize(contents: Contents, path: string, sides: Readonly<Record<number, number>>): Contents {
    const file = contents.get(path)!;
    const length = safetensorsHeaderLength(file.subarray(0, 8), file.length, path);
    const { tensors } = parseSafetensorsHeader(file.subarray(8, 8 + length), file.length, path);
    const resized = [...tensors.values()].map(
      ({ name, shape }): [string, { dims: number[]; data: Float32Array<ArrayBuffer> }] => {
        const dims = shape.map((side) => sides[side] ?? side);
        return [name, { dims, data: new Float32Array(dims.reduce((all, side) => all * side, 1)) }];
      },
    );
    return contents.set(path, writeSafetensors(resized));
  }

  test.each([
    ['Z-Image', splitZImage, 32, 64, 'qwen_3_4b.safetensors (Comfy-Org/z_image_turbo)'],
    ['FLUX.2 klein', splitFlux2, 96, 192, 'qwen_3_4b.safetensors (Comfy-Org/vae-text-encorder-for-flux-klein-4b)'],
  ] as const)(
    '%s with a text encoder of another size, with the one to choose',
    async (_, split, reads, gives, file) => {
      const contents = resize(split(), 'text_encoders/qwen_3_4b.safetensors', { 32: 64 });
      await expect(open(contents)).rejects.toThrow(
        `The transformer of "models" reads ${reads} numbers of each token and its text encoder gives ${gives}; choose ${file} in its place.`,
      );
    },
  );

  test('parts of different models, by what does not fit', async () => {
    const contents = resize(splitFlux1Gguf(), 'text_encoders/clip_l.safetensors', { 64: 32 });
    await expect(open(contents)).rejects.toThrow(
      'The transformer of "models" takes 64 numbers of the text as a whole and its text encoders give 32; take all from one checkpoint.',
    );
  });
});
