/** Names and shapes of the tensors of real Stable Diffusion checkpoints, spelled out independently of the graph builders. */

const DEEP = { widths: [320, 640, 1280, 1280], depths: [1, 1, 1, 0], middle: 1 };
/** Of Stable Diffusion XL: few levels, and deep ones. */
const WIDE = { widths: [320, 640, 1280], depths: [0, 2, 10], middle: 10 };

/**
 * @param context width of the text's embeddings: 768 in Stable Diffusion 1, 1024 in 2, 2048 in XL
 * @param inputs 9 in those for inpainting
 */
export function unetShapes(context: number, inputs = 4): Map<string, number[]> {
  const { widths, depths, middle } = context === 2048 ? WIDE : DEEP;
  const shapes = new Map<string, number[]>();
  const layer = (path: string, shape: number[], bias = true) => {
    shapes.set(`${path}.weight`, shape);
    if (bias) {
      shapes.set(`${path}.bias`, [shape[0]]);
    }
  };
  const resnet = (path: string, from: number, to: number) => {
    layer(`${path}.norm1`, [from]);
    layer(`${path}.conv1`, [to, from, 3, 3]);
    layer(`${path}.time_emb_proj`, [to, 1280]);
    layer(`${path}.norm2`, [to]);
    layer(`${path}.conv2`, [to, to, 3, 3]);
    if (from !== to) {
      layer(`${path}.conv_shortcut`, [to, from, 1, 1]);
    }
  };
  const transformer = (path: string, width: number, depth: number) => {
    if (depth === 0) {
      return;
    }
    layer(`${path}.norm`, [width]);
    layer(`${path}.proj_in`, [width, width]);
    layer(`${path}.proj_out`, [width, width]);
    for (let index = 0; index < depth; index++) {
      const block = `${path}.transformer_blocks.${index}`;
      for (const [attention, from] of [
        ['attn1', width],
        ['attn2', context],
      ] as const) {
        layer(`${block}.${attention}.to_q`, [width, width], false);
        layer(`${block}.${attention}.to_k`, [width, from], false);
        layer(`${block}.${attention}.to_v`, [width, from], false);
        layer(`${block}.${attention}.to_out.0`, [width, width]);
      }
      for (const norm of ['norm1', 'norm2', 'norm3']) {
        layer(`${block}.${norm}`, [width]);
      }
      layer(`${block}.ff.net.0.proj`, [8 * width, width]);
      layer(`${block}.ff.net.2`, [width, 4 * width]);
    }
  };

  layer('conv_in', [320, inputs, 3, 3]);
  layer('time_embedding.linear_1', [1280, 320]);
  layer('time_embedding.linear_2', [1280, 1280]);
  if (context === 2048) {
    layer('add_embedding.linear_1', [1280, 1280 + 6 * 256]);
    layer('add_embedding.linear_2', [1280, 1280]);
  }
  const skips = [320];
  let width = 320;
  widths.forEach((to, index) => {
    const path = `down_blocks.${index}`;
    for (const number of [0, 1]) {
      resnet(`${path}.resnets.${number}`, width, to);
      transformer(`${path}.attentions.${number}`, to, depths[index]);
      width = to;
      skips.push(to);
    }
    if (index < widths.length - 1) {
      layer(`${path}.downsamplers.0.conv`, [to, to, 3, 3]);
      skips.push(to);
    }
  });
  resnet('mid_block.resnets.0', 1280, 1280);
  transformer('mid_block.attentions.0', 1280, middle);
  resnet('mid_block.resnets.1', 1280, 1280);
  [...widths].reverse().forEach((to, index) => {
    const path = `up_blocks.${index}`;
    for (const number of [0, 1, 2]) {
      resnet(`${path}.resnets.${number}`, width + (skips.pop() ?? 0), to);
      transformer(`${path}.attentions.${number}`, to, depths[depths.length - 1 - index]);
      width = to;
    }
    if (index < widths.length - 1) {
      layer(`${path}.upsamplers.0.conv`, [to, to, 3, 3]);
    }
  });
  layer('conv_norm_out', [320]);
  layer('conv_out', [4, 320, 3, 3]);
  return shapes;
}

/** @param context as of {@link unetShapes} */
export function controlNetShapes(context: number): Map<string, number[]> {
  const isDown = ([name]: [string, number[]]) => !/^(up_blocks|conv_norm_out|conv_out)\b/.test(name);
  const shapes = new Map([...unetShapes(context)].filter(isDown));
  const conv = (path: string, from: number, to: number, kernel: number) => {
    shapes.set(`${path}.weight`, [to, from, kernel, kernel]);
    shapes.set(`${path}.bias`, [to]);
  };
  const hint = 'controlnet_cond_embedding';
  conv(`${hint}.conv_in`, 3, 16, 3);
  [
    [16, 16],
    [16, 32],
    [32, 32],
    [32, 96],
    [96, 96],
    [96, 256],
  ].forEach(([from, to], index) => {
    conv(`${hint}.blocks.${index}`, from, to, 3);
  });
  conv(`${hint}.conv_out`, 256, 320, 3);
  const { widths } = context === 2048 ? WIDE : DEEP;
  const skips = [
    320,
    ...widths.flatMap((width, level) => Array<number>(level < widths.length - 1 ? 3 : 2).fill(width)),
  ];
  skips.forEach((width, index) => {
    conv(`controlnet_down_blocks.${index}`, width, width, 1);
  });
  conv('controlnet_mid_block', 1280, 1280, 1);
  return shapes;
}

export function autoencoderShapes(): Map<string, number[]> {
  const shapes = new Map<string, number[]>();
  const layer = (path: string, shape: number[]) => {
    shapes.set(`${path}.weight`, shape);
    shapes.set(`${path}.bias`, [shape[0]]);
  };
  const resnet = (path: string, from: number, to: number) => {
    layer(`${path}.norm1`, [from]);
    layer(`${path}.conv1`, [to, from, 3, 3]);
    layer(`${path}.norm2`, [to]);
    layer(`${path}.conv2`, [to, to, 3, 3]);
    if (from !== to) {
      layer(`${path}.conv_shortcut`, [to, from, 1, 1]);
    }
  };
  const side = (path: string, first: number, channels: number[], layers: number, blocks: string, scaling: string) => {
    layer(`${path}.conv_in`, [channels[0], first, 3, 3]);
    let width = channels[0];
    channels.forEach((to, index) => {
      for (let number = 0; number < layers; number++) {
        resnet(`${path}.${blocks}.${index}.resnets.${number}`, width, to);
        width = to;
      }
      if (index < channels.length - 1) {
        layer(`${path}.${blocks}.${index}.${scaling}.0.conv`, [to, to, 3, 3]);
      }
    });
    for (const number of [0, 1]) {
      resnet(`${path}.mid_block.resnets.${number}`, 512, 512);
    }
    layer(`${path}.mid_block.attentions.0.group_norm`, [512]);
    for (const name of ['to_q', 'to_k', 'to_v', 'to_out.0']) {
      layer(`${path}.mid_block.attentions.0.${name}`, [512, 512]);
    }
    layer(`${path}.conv_norm_out`, [width]);
    layer(`${path}.conv_out`, [first === 3 ? 8 : 3, width, 3, 3]);
  };
  side('encoder', 3, [128, 256, 512, 512], 2, 'down_blocks', 'downsamplers');
  side('decoder', 4, [512, 512, 256, 128], 3, 'up_blocks', 'upsamplers');
  layer('quant_conv', [8, 8, 1, 1]);
  layer('post_quant_conv', [4, 4, 1, 1]);
  return shapes;
}

/**
 * CLIPTextModel as transformers saves it: 768, 3072, 12 layers in Stable Diffusion 1; 1024, 4096, 23 layers in 2; 1280, 5120, 32 layers in
 * the second one of XL, which projects to 1280.
 */
export function textShapes(width: number, inner: number, layers: number, projection?: number): Map<string, number[]> {
  const shapes = new Map<string, number[]>();
  if (projection !== undefined) {
    shapes.set('text_projection.weight', [projection, width]);
  }
  const layer = (path: string, shape: number[]) => {
    shapes.set(`text_model.${path}.weight`, shape);
    shapes.set(`text_model.${path}.bias`, [shape[0]]);
  };
  shapes.set('text_model.embeddings.token_embedding.weight', [49408, width]);
  shapes.set('text_model.embeddings.position_embedding.weight', [77, width]);
  for (let index = 0; index < layers; index++) {
    const path = `encoder.layers.${index}`;
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj']) {
      layer(`${path}.self_attn.${name}`, [width, width]);
    }
    layer(`${path}.layer_norm1`, [width]);
    layer(`${path}.layer_norm2`, [width]);
    layer(`${path}.mlp.fc1`, [inner, width]);
    layer(`${path}.mlp.fc2`, [width, inner]);
  }
  layer('final_layer_norm', [width]);
  return shapes;
}
