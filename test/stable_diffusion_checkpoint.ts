/** Whole checkpoints of Stable Diffusion with their released configurations, of which the weights come from whoever asks. */
import { autoencoderShapes, textShapes, unetShapes } from './stable_diffusion_shapes.ts';

export type Version = 1 | 2 | 'XL';

type Shapes = Map<string, number[]>;

/**
 * @param inputs channels of the UNet's input: 4, or 9 of those for inpainting
 * @param weights makes a file of weights, which has this path in the checkpoint
 */
export function stableDiffusionFiles(
  version: Version,
  inputs: number,
  weights: (path: string, shapes: Shapes) => File,
): { path: string; file: File }[] {
  const isXl = version === 'XL';
  const [context, heads] = isXl ? [2048, [5, 10, 20]] : version === 1 ? [768, 8] : [1024, [5, 10, 20, 20]];
  const [width, inner, layers, textHeads] = version === 2 ? [1024, 4096, 23, 16] : [768, 3072, 12, 12];
  const json = (path: string, value: unknown) => ({ path, file: new File([JSON.stringify(value)], path) });
  const of = (path: string, shapes: Shapes) => ({ path, file: weights(path, shapes) });
  const tokenizer = (folder: string) => [
    json(`${folder}/vocab.json`, { '<|startoftext|>': 0, '<|endoftext|>': 1, 'a</w>': 2 }),
    { path: `${folder}/merges.txt`, file: new File(['#version: 0.2\n'], 'merges.txt') },
  ];
  return [
    json('model_index.json', {
      _class_name: isXl ? 'StableDiffusionXLPipeline' : 'StableDiffusionPipeline',
      text_encoder: ['transformers', 'CLIPTextModel'],
      ...(isXl && { text_encoder_2: ['transformers', 'CLIPTextModelWithProjection'] }),
      unet: ['diffusers', 'UNet2DConditionModel'],
      vae: ['diffusers', 'AutoencoderKL'],
    }),
    json('scheduler/scheduler_config.json', { _class_name: 'EulerDiscreteScheduler' }),
    ...tokenizer('tokenizer'),
    ...(isXl
      ? [
          ...tokenizer('tokenizer_2'),
          json('text_encoder_2/config.json', {
            hidden_size: 1280,
            intermediate_size: 5120,
            num_hidden_layers: 32,
            num_attention_heads: 20,
            projection_dim: 1280,
          }),
          of('text_encoder_2/model.safetensors', textShapes(1280, 5120, 32, 1280)),
        ]
      : []),
    json('text_encoder/config.json', {
      hidden_size: width,
      intermediate_size: inner,
      num_hidden_layers: layers,
      num_attention_heads: textHeads,
    }),
    json('unet/config.json', {
      attention_head_dim: heads,
      cross_attention_dim: context,
      use_linear_projection: version !== 1,
      in_channels: inputs,
      sample_size: isXl ? 128 : 64,
      ...(isXl && {
        addition_embed_type: 'text_time',
        addition_time_embed_dim: 256,
        block_out_channels: [320, 640, 1280],
        down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
        projection_class_embeddings_input_dim: 2816,
        transformer_layers_per_block: [1, 2, 10],
        up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
      }),
    }),
    json('vae/config.json', {
      block_out_channels: [128, 256, 512, 512],
      down_block_types: Array<string>(4).fill('DownEncoderBlock2D'),
      up_block_types: Array<string>(4).fill('UpDecoderBlock2D'),
      layers_per_block: 2,
    }),
    of('text_encoder/model.safetensors', textShapes(width, inner, layers)),
    of('unet/diffusion_pytorch_model.safetensors', unetShapes(context, inputs)),
    of('vae/diffusion_pytorch_model.safetensors', autoencoderShapes()),
    json('notes/of_nobody.json', {}),
  ];
}
