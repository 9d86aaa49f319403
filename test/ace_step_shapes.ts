/** Names and shapes of the tensors of ACE-Step 1.5 as published, spelled out independently of the graph builders. */

const [WIDTH, INNER, HEAD, LATENTS, TEXT] = [2048, 6144, 128, 64, 1024];
const [HEADS, SHARED] = [16, 8];

type Shapes = Map<string, number[]>;

export function aceStepShapes(): Record<
  'transformer' | 'condition_encoder' | 'audio_tokenizer' | 'audio_token_detokenizer',
  Shapes
> {
  return {
    transformer: transformer(),
    condition_encoder: conditionEncoder(),
    audio_tokenizer: audioTokenizer(),
    audio_token_detokenizer: detokenizer(),
  };
}

/** Qwen3-Embedding-0.6B, without its head. */
export function qwen3EmbeddingShapes(): Shapes {
  const shapes: Shapes = new Map([
    ['embed_tokens.weight', [151669, TEXT]],
    ['norm.weight', [TEXT]],
  ]);
  for (let layer = 0; layer < 28; layer++) {
    const path = `layers.${layer}`;
    const projections = { q: HEADS, k: SHARED, v: SHARED };
    for (const [name, heads] of Object.entries(projections)) {
      shapes.set(`${path}.self_attn.${name}_proj.weight`, [heads * HEAD, TEXT]);
    }
    shapes.set(`${path}.self_attn.o_proj.weight`, [TEXT, HEADS * HEAD]);
    for (const name of ['q_norm', 'k_norm']) {
      shapes.set(`${path}.self_attn.${name}.weight`, [HEAD]);
    }
    for (const name of ['input_layernorm', 'post_attention_layernorm']) {
      shapes.set(`${path}.${name}.weight`, [TEXT]);
    }
    mlp(shapes, `${path}.mlp`, TEXT, 3072);
  }
  return shapes;
}

/** The autoencoder at 48 kHz, its directions and lengths already joined. */
export function oobleckShapes(): Shapes {
  const shapes: Shapes = new Map();
  const conv = (path: string, to: number, from: number, kernel: number, bias = to) => {
    shapes.set(`${path}.weight`, [to, from, kernel]);
    if (bias > 0) {
      shapes.set(`${path}.bias`, [bias]);
    }
  };
  const snake = (path: string, width: number) => {
    for (const name of ['alpha', 'beta']) {
      shapes.set(`${path}.${name}`, [1, width, 1]);
    }
  };
  const units = (path: string, width: number) => {
    for (const unit of [1, 2, 3]) {
      snake(`${path}.res_unit${unit}.snake1`, width);
      conv(`${path}.res_unit${unit}.conv1`, width, width, 7);
      snake(`${path}.res_unit${unit}.snake2`, width);
      conv(`${path}.res_unit${unit}.conv2`, width, width, 1);
    }
  };
  const ratios = [2, 4, 4, 6, 10];
  const widths = [1, 1, 2, 4, 8, 16].map((multiple) => 128 * multiple);
  conv('encoder.conv1', widths[0], 2, 7);
  ratios.forEach((ratio, level) => {
    const path = `encoder.block.${level}`;
    units(path, widths[level]);
    snake(`${path}.snake1`, widths[level]);
    conv(`${path}.conv1`, widths[level + 1], widths[level], 2 * ratio);
  });
  snake('encoder.snake1', widths[5]);
  conv('encoder.conv2', 128, widths[5], 3);
  conv('decoder.conv1', widths[5], LATENTS, 7);
  [...ratios].reverse().forEach((ratio, level) => {
    const path = `decoder.block.${level}`;
    const [from, to] = [widths[5 - level], widths[4 - level]];
    snake(`${path}.snake1`, from);
    conv(`${path}.conv_t1`, from, to, 2 * ratio, to);
    units(path, to);
  });
  snake('decoder.snake1', widths[0]);
  conv('decoder.conv2', 2, widths[0], 7, 0);
  return shapes;
}

function linear(shapes: Shapes, path: string, to: number, from: number, bias = true): void {
  shapes.set(`${path}.weight`, [to, from]);
  if (bias) {
    shapes.set(`${path}.bias`, [to]);
  }
}

function mlp(shapes: Shapes, path: string, width: number, inner: number): void {
  linear(shapes, `${path}.gate_proj`, inner, width, false);
  linear(shapes, `${path}.up_proj`, inner, width, false);
  linear(shapes, `${path}.down_proj`, width, inner, false);
}

function attention(shapes: Shapes, path: string): void {
  linear(shapes, `${path}.to_q`, HEADS * HEAD, WIDTH, false);
  linear(shapes, `${path}.to_k`, SHARED * HEAD, WIDTH, false);
  linear(shapes, `${path}.to_v`, SHARED * HEAD, WIDTH, false);
  linear(shapes, `${path}.to_out.0`, WIDTH, HEADS * HEAD, false);
  shapes.set(`${path}.norm_q.weight`, [HEAD]);
  shapes.set(`${path}.norm_k.weight`, [HEAD]);
}

function encoder(shapes: Shapes, prefix: string, layers: number, from: number): void {
  linear(shapes, `${prefix}embed_tokens`, WIDTH, from);
  shapes.set(`${prefix}norm.weight`, [WIDTH]);
  for (let layer = 0; layer < layers; layer++) {
    const path = `${prefix}layers.${layer}`;
    attention(shapes, `${path}.self_attn`);
    shapes.set(`${path}.input_layernorm.weight`, [WIDTH]);
    shapes.set(`${path}.post_attention_layernorm.weight`, [WIDTH]);
    mlp(shapes, `${path}.mlp`, WIDTH, INNER);
  }
}

function transformer(): Shapes {
  const shapes: Shapes = new Map([
    ['proj_in_conv.weight', [WIDTH, 3 * LATENTS, 2]],
    ['proj_in_conv.bias', [WIDTH]],
    ['proj_out_conv.weight', [WIDTH, LATENTS, 2]],
    ['proj_out_conv.bias', [LATENTS]],
    ['norm_out.weight', [WIDTH]],
    ['scale_shift_table', [1, 2, WIDTH]],
  ]);
  linear(shapes, 'condition_embedder', WIDTH, WIDTH);
  for (const path of ['time_embed', 'time_embed_r']) {
    linear(shapes, `${path}.linear_1`, WIDTH, 256);
    linear(shapes, `${path}.linear_2`, WIDTH, WIDTH);
    linear(shapes, `${path}.time_proj`, 6 * WIDTH, WIDTH);
  }
  for (let layer = 0; layer < 24; layer++) {
    const path = `layers.${layer}`;
    attention(shapes, `${path}.self_attn`);
    attention(shapes, `${path}.cross_attn`);
    for (const name of ['self_attn_norm', 'cross_attn_norm', 'mlp_norm']) {
      shapes.set(`${path}.${name}.weight`, [WIDTH]);
    }
    mlp(shapes, `${path}.mlp`, WIDTH, INNER);
    shapes.set(`${path}.scale_shift_table`, [1, 6, WIDTH]);
  }
  return shapes;
}

function conditionEncoder(): Shapes {
  const shapes: Shapes = new Map([
    ['silence_latent', [1, 15000, LATENTS]],
    ['null_condition_emb', [1, 1, WIDTH]],
    ['timbre_encoder.special_token', [1, 1, WIDTH]],
  ]);
  linear(shapes, 'text_projector', WIDTH, TEXT, false);
  encoder(shapes, 'lyric_encoder.', 8, TEXT);
  encoder(shapes, 'timbre_encoder.', 4, LATENTS);
  return shapes;
}

function audioTokenizer(): Shapes {
  const shapes: Shapes = new Map([['attention_pooler.special_token', [1, 1, WIDTH]]]);
  linear(shapes, 'audio_acoustic_proj', WIDTH, LATENTS);
  encoder(shapes, 'attention_pooler.', 2, WIDTH);
  linear(shapes, 'quantizer.project_in', 6, WIDTH);
  linear(shapes, 'quantizer.project_out', WIDTH, 6);
  return shapes;
}

function detokenizer(): Shapes {
  const shapes: Shapes = new Map([['special_tokens', [1, 5, WIDTH]]]);
  encoder(shapes, '', 2, WIDTH);
  linear(shapes, 'proj_out', LATENTS, WIDTH);
  return shapes;
}
