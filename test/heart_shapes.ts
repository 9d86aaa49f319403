/** Names and shapes of the tensors of HeartMuLa-oss-3B and HeartCodec-oss as heartlib's classes have them, spelled out independently of the graph builders. */

type Shapes = Map<string, number[]>;

export function heartMulaShapes(): Shapes {
  const [width, inner, words, codes] = [3072, 8192, 8197, 8];
  const shapes: Shapes = new Map([
    ['text_embeddings.weight', [128256, width]],
    ['audio_embeddings.weight', [words * codes, width]],
    ['unconditional_text_embedding.weight', [1, width]],
    ['projection.weight', [width, width]],
    ['codebook0_head.weight', [words, width]],
    ['audio_head', [codes - 1, width, words]],
    ['muq_linear.weight', [width, 512]],
    ['muq_linear.bias', [width]],
  ]);
  const stacks = { backbone: [28, 24, 8], decoder: [3, 8, 4] };
  for (const [stack, [layers, heads, shared]] of Object.entries(stacks)) {
    shapes.set(`${stack}.norm.scale`, [width]);
    for (let layer = 0; layer < layers; layer++) {
      const path = `${stack}.layers.${layer}`;
      const narrow = (width / heads) * shared;
      shapes.set(`${path}.attn.q_proj.weight`, [width, width]);
      shapes.set(`${path}.attn.k_proj.weight`, [narrow, width]);
      shapes.set(`${path}.attn.v_proj.weight`, [narrow, width]);
      shapes.set(`${path}.attn.output_proj.weight`, [width, width]);
      shapes.set(`${path}.mlp.w1.weight`, [inner, width]);
      shapes.set(`${path}.mlp.w2.weight`, [width, inner]);
      shapes.set(`${path}.mlp.w3.weight`, [inner, width]);
      shapes.set(`${path}.sa_norm.scale`, [width]);
      shapes.set(`${path}.mlp_norm.scale`, [width]);
    }
  }
  return shapes;
}

/** What sounds are made with: the encoder is left out. */
export function heartCodecShapes(): Shapes {
  const shapes: Shapes = new Map();
  const linear = (path: string, out: number, width: number, bias = true) => {
    shapes.set(`${path}.weight`, [out, width]);
    if (bias) {
      shapes.set(`${path}.bias`, [out]);
    }
  };
  const root = 'flow_matching';
  shapes.set(`${root}.zero_cond_embedding1`, [512]);
  linear(`${root}.vq_embed.project_in`, 32, 512);
  linear(`${root}.vq_embed.project_out`, 512, 32);
  for (let quantiser = 0; quantiser < 8; quantiser++) {
    shapes.set(`${root}.vq_embed.layers.${quantiser}._codebook.embed`, [1, 8192, 32]);
  }
  linear(`${root}.cond_feature_emb`, 512, 512);
  const project = (name: string, out: number, width: number) => {
    shapes.set(`${root}.estimator.${name}.ffn_1.weight`, [out, width, 3]);
    shapes.set(`${root}.estimator.${name}.ffn_1.bias`, [out]);
    linear(`${root}.estimator.${name}.ffn_2`, out, out);
  };
  project('proj_in', 1536, 1024);
  project('connection_proj', 3072, 1024 + 1536);
  project('proj_out', 256, 3072);
  for (const [part, layers, width, inner] of [
    ['', 24, 1536, 4096],
    ['_2', 6, 3072, 8192],
  ] as const) {
    const flow = `${root}.estimator`;
    shapes.set(`${flow}.scale_shift_table${part}`, [2, width]);
    linear(`${flow}.adaln_single${part}.emb.timestep_embedder.linear_1`, width, 512);
    linear(`${flow}.adaln_single${part}.emb.timestep_embedder.linear_2`, width, width);
    linear(`${flow}.adaln_single${part}.linear`, 6 * width, width);
    for (let layer = 0; layer < layers; layer++) {
      const path = `${flow}.transformer_blocks${part}.${layer}`;
      shapes.set(`${path}.scale_shift_table`, [6, width]);
      shapes.set(`${path}.attn_norm.weight`, [width]);
      shapes.set(`${path}.mlp_norm.weight`, [width]);
      for (const name of ['q', 'k', 'v', 'o']) {
        linear(`${path}.attn.${name}_proj`, width, width, false);
      }
      linear(`${path}.mlp.gate`, inner, width, false);
      linear(`${path}.mlp.up`, inner, width, false);
      linear(`${path}.mlp.down`, width, inner, false);
    }
  }
  const decoder = 'scalar_model.decoder';
  const normed = (path: string, dims: number[], bias: number) => {
    shapes.set(`${path}.bias`, [bias]);
    shapes.set(`${path}.parametrizations.weight.original0`, [dims[0], 1, 1]);
    shapes.set(`${path}.parametrizations.weight.original1`, dims);
  };
  normed(`${decoder}.0`, [2048, 128, 5], 2048);
  [5, 4, 4, 4, 3].forEach((factor, i) => {
    const [wide, narrow] = [2048 / 2 ** i, 1024 / 2 ** i];
    normed(`${decoder}.${i + 1}.up_conv.layer`, [wide, narrow, 2 * factor], narrow);
    for (let unit = 0; unit < 5; unit++) {
      const path = `${decoder}.${i + 1}.convs.${unit}`;
      normed(`${path}.conv1`, [narrow, narrow, 7], narrow);
      normed(`${path}.conv2`, [narrow, narrow, 1], narrow);
      shapes.set(`${path}.activation1.weight`, [1]);
      shapes.set(`${path}.activation2.weight`, [1]);
    }
  });
  shapes.set(`${decoder}.6.conv.weight`, [64, 64, 7]);
  shapes.set(`${decoder}.6.conv.bias`, [64]);
  shapes.set(`${decoder}.6.activation.weight`, [1]);
  normed(`${decoder}.7`, [1, 64, 7], 1);
  return shapes;
}
