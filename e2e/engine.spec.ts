/** What the engine promises beside right numbers: nothing is read back on the way, nothing leaks, either build works. */
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  writeSync,
  writeFileSync,
  cpSync,
  rmSync,
  readFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { CHECKPOINTS, openDoor, openFolder, readGolden, runOperation } from './fixtures/door.ts';

const PICTURES_IN_A_ROW = Number(process.env.PICTURES ?? 100);

function small(parameters: Record<string, unknown> = {}) {
  return {
    operation: 'image_generation',
    config: 'stable_diffusion',
    parameters: { prompt: 'a cat', steps: 1, guidance_scale: 0, width: 64, height: 64, seed: '1', ...parameters },
  };
}

const ledger = (page: Page) =>
  page.evaluate(() => (globalThis.darkroom as NonNullable<typeof globalThis.darkroom>).ledger());

test('between the first step and the picture no buffer is mapped for reading', async ({ page }) => {
  await openDoor(page, 'webgpu');
  await openFolder(page, join(CHECKPOINTS, 'tiny-turbo'));
  await runOperation(page, small());
  const before = await ledger(page);
  const { job, pictures } = await runOperation(page, small({ steps: 4, guidance_scale: 3 }));
  const after = await ledger(page);
  expect(job.state).toBe('completed');
  expect(pictures).toHaveLength(1);
  // The one map is the picture itself.
  expect(after.readMaps - before.readMaps).toBe(1);
});

test(`${PICTURES_IN_A_ROW} pictures in a row leave as many live GPU buffers as one`, async ({ page }) => {
  test.setTimeout(900_000);
  await openDoor(page, 'webgpu');
  await openFolder(page, join(CHECKPOINTS, 'tiny-turbo'));
  const operation = small({ width: 16, height: 16 });
  await runOperation(page, operation);
  const one = await ledger(page);
  await page.evaluate(
    async ({ operation, count }) => {
      const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
      const jobs = Array.from({ length: count }, () => door.submit(operation));
      for (const { id } of jobs) {
        const job = await door.wait(id);
        if (job.state !== 'completed') {
          throw new Error(job.error?.message ?? job.state);
        }
      }
    },
    { operation, count: PICTURES_IN_A_ROW - 1 },
  );
  const hundred = await ledger(page);
  console.log(
    `live GPU buffers after 1 picture: ${one.liveBuffers} (${one.liveBytes} bytes), after ${PICTURES_IN_A_ROW}: ${hundred.liveBuffers} (${hundred.liveBytes} bytes)`,
  );
  expect(hundred.liveBuffers).toBe(one.liveBuffers);
  expect(hundred.liveBytes).toBe(one.liveBytes);
});

test('serial guidance makes the same picture as batched guidance', async ({ page }) => {
  await openDoor(page, 'wasm');
  await openFolder(page, join(CHECKPOINTS, 'tiny-sd15'));
  const settings = { steps: 3, guidance_scale: 7.5, seed: '7', batch_size: 2 };
  const batched = await runOperation(page, {
    ...small({ ...settings, guidance_mode: 'batched' }),
    record: ['latents'],
  });
  const serial = await runOperation(page, { ...small({ ...settings, guidance_mode: 'serial' }), record: ['latents'] });
  expect(batched.job.error).toBeNull();
  const worst = (batched.latents ?? new Float32Array()).reduce(
    (most, value, i) => Math.max(most, Math.abs(value - (serial.latents?.[i] ?? NaN))),
    0,
  );
  expect(worst).toBeLessThanOrEqual(1e-3);
});

test('browsers without JSPI get the other build of the runtime, and the same picture', async ({ page }) => {
  // As in Firefox and Safari today: the worker finds no WebAssembly.Suspending.
  await page.route(/generation\.worker.*\.js$/, async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: `delete WebAssembly.Suspending;\n${await response.text()}` });
  });
  await openDoor(page, 'wasm');
  expect(await page.evaluate(() => globalThis.darkroom?.device())).toMatchObject({ runtime: 'asyncify' });
  for (const name of ['sd15-transform-euler-03', 'sd21-bf16-defaults']) {
    const golden = readGolden(name);
    await openFolder(page, join(CHECKPOINTS, golden.checkpoint));
    const { job, latents } = await runOperation(page, golden.operation);
    expect(job.error).toBeNull();
    const worst = golden.latents.reduce((most, value, i) => Math.max(most, Math.abs(value - (latents?.[i] ?? NaN))), 0);
    expect(worst).toBeLessThanOrEqual(1e-3);
  }
});

test('a full-size Stable Diffusion 2.1 UNet (866 M parameters) loads, and its weights never enter the wasm heap', async ({
  playwright,
  baseURL,
}, info) => {
  test.setTimeout(900_000);
  // A browser of its own, so that what it holds is gone with it.
  const browser = await playwright.chromium.launch(info.project.use.launchOptions);
  const folder = mkdtempSync(join(tmpdir(), 'darkroom-scale-'));
  try {
    writeFullSizeCheckpoint(folder);
    const page = await (await browser.newContext({ baseURL })).newPage();
    await openDoor(page, 'webgpu');
    const before = await ledger(page);
    await openFolder(page, folder);
    // Until its first step begins: a software GPU computes one step of this size for many minutes.
    const error = await page.evaluate(
      (operation) =>
        new Promise<string | null>((loaded) => {
          const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
          const { id } = door.submit(operation);
          door.follow(id, ({ error, progress }) => {
            if (error || progress?.stage === 'sample') {
              loaded(error?.message ?? null);
            }
          });
        }),
      small({ width: 16, height: 16 }),
    );
    expect(error).toBeNull();
    const after = await ledger(page);
    const growth = after.wasmHeapBytes - before.wasmHeapBytes;
    console.log(
      `full-size UNet: ${(after.liveBytes / 2 ** 20).toFixed(0)} MiB in ${after.liveBuffers} live GPU buffers, wasm heap ${(before.wasmHeapBytes / 2 ** 20).toFixed(0)} MiB + ${(growth / 2 ** 20).toFixed(0)} MiB`,
    );
    expect(growth).toBeLessThanOrEqual(64 * 2 ** 20);
    expect(after.liveBytes).toBeGreaterThan(865_000_000 * 4);
  } finally {
    await browser.close();
    rmSync(folder, { recursive: true, force: true });
  }
});

/** The published configuration of SD 2.1's UNet with random f16 weights; text encoder and autoencoder are tiny ones. */
function writeFullSizeCheckpoint(folder: string): void {
  const tiny = join(CHECKPOINTS, 'tiny-turbo');
  cpSync(tiny, folder, { recursive: true });
  const config = {
    _class_name: 'UNet2DConditionModel',
    attention_head_dim: [5, 10, 20, 20],
    block_out_channels: [320, 640, 1280, 1280],
    cross_attention_dim: 1024,
    down_block_types: ['CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'],
    up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'],
    in_channels: 4,
    out_channels: 4,
    layers_per_block: 2,
    norm_num_groups: 32,
    sample_size: 64,
    use_linear_projection: true,
  };
  rmSync(join(folder, 'unet'), { recursive: true });
  mkdirSync(join(folder, 'unet'));
  writeFileSync(join(folder, 'unet', 'config.json'), JSON.stringify(config));
  writeRandomWeights(join(folder, 'unet', 'diffusion_pytorch_model.safetensors'), fullSizeUnetShapes());

  // A one-layer text encoder of the width that this UNet reads.
  const text = JSON.parse(readFileSync(join(tiny, 'text_encoder', 'config.json'), 'utf8')) as Record<string, number>;
  const width = 1024;
  writeFileSync(
    join(folder, 'text_encoder', 'config.json'),
    JSON.stringify({
      ...text,
      hidden_size: width,
      intermediate_size: width,
      num_hidden_layers: 1,
      num_attention_heads: 16,
    }),
  );
  rmSync(join(folder, 'text_encoder', 'model.safetensors'));
  const layer = 'text_model.encoder.layers.0';
  const shapes: [string, number[]][] = [
    ['text_model.embeddings.position_embedding.weight', [77, width]],
    ['text_model.embeddings.token_embedding.weight', [text.vocab_size, width]],
  ];
  const addAffine = (name: string, ...shape: number[]) =>
    shapes.push([`${name}.weight`, shape], [`${name}.bias`, [shape[0]]]);
  for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj']) {
    addAffine(`${layer}.self_attn.${name}`, width, width);
  }
  addAffine(`${layer}.mlp.fc1`, width, width);
  addAffine(`${layer}.mlp.fc2`, width, width);
  addAffine(`${layer}.layer_norm1`, width);
  addAffine(`${layer}.layer_norm2`, width);
  addAffine('text_model.final_layer_norm', width);
  writeRandomWeights(join(folder, 'text_encoder', 'model.safetensors'), shapes);
}

/** Tensor names and shapes of SD 2.1's UNet, in the order of its module tree. */
function fullSizeUnetShapes(): [string, number[]][] {
  const shapes: [string, number[]][] = [];
  const affine = (name: string, ...shape: number[]) =>
    shapes.push([`${name}.weight`, shape], [`${name}.bias`, [shape[0]]]);
  const conv = (name: string, from: number, to: number, kernel = 3) => affine(name, to, from, kernel, kernel);
  const channels = [320, 640, 1280, 1280];
  const time = 1280;
  const resnet = (name: string, from: number, to: number) => {
    affine(`${name}.norm1`, from);
    conv(`${name}.conv1`, from, to);
    affine(`${name}.time_emb_proj`, to, time);
    affine(`${name}.norm2`, to);
    conv(`${name}.conv2`, to, to);
    if (from !== to) {
      conv(`${name}.conv_shortcut`, from, to, 1);
    }
  };
  const transformer = (name: string, width: number) => {
    affine(`${name}.norm`, width);
    affine(`${name}.proj_in`, width, width);
    const block = `${name}.transformer_blocks.0`;
    for (const [attention, context] of [
      ['attn1', width],
      ['attn2', 1024],
    ] as const) {
      shapes.push([`${block}.${attention}.to_q.weight`, [width, width]]);
      shapes.push([`${block}.${attention}.to_k.weight`, [width, context]]);
      shapes.push([`${block}.${attention}.to_v.weight`, [width, context]]);
      affine(`${block}.${attention}.to_out.0`, width, width);
    }
    affine(`${block}.ff.net.0.proj`, 8 * width, width);
    affine(`${block}.ff.net.2`, width, 4 * width);
    for (const norm of ['norm1', 'norm2', 'norm3']) {
      affine(`${block}.${norm}`, width);
    }
    affine(`${name}.proj_out`, width, width);
  };
  conv('conv_in', 4, 320);
  affine('time_embedding.linear_1', time, 320);
  affine('time_embedding.linear_2', time, time);
  const skips = [320];
  let width = 320;
  channels.forEach((to, block) => {
    for (let i = 0; i < 2; i++) {
      resnet(`down_blocks.${block}.resnets.${i}`, width, to);
      width = to;
      skips.push(width);
      if (block < 3) {
        transformer(`down_blocks.${block}.attentions.${i}`, width);
      }
    }
    if (block < 3) {
      conv(`down_blocks.${block}.downsamplers.0.conv`, width, width);
      skips.push(width);
    }
  });
  resnet('mid_block.resnets.0', width, width);
  transformer('mid_block.attentions.0', width);
  resnet('mid_block.resnets.1', width, width);
  [...channels].reverse().forEach((to, block) => {
    for (let i = 0; i < 3; i++) {
      resnet(`up_blocks.${block}.resnets.${i}`, width + (skips.pop() ?? 0), to);
      width = to;
      if (block > 0) {
        transformer(`up_blocks.${block}.attentions.${i}`, width);
      }
    }
    if (block < 3) {
      conv(`up_blocks.${block}.upsamplers.0.conv`, width, width);
    }
  });
  affine('conv_norm_out', 320);
  conv('conv_out', 320, 4);
  return shapes;
}

/** A safetensors file of small random f16 numbers, written in parts so that it needs no memory. */
function writeRandomWeights(path: string, shapes: [string, number[]][]): void {
  const header: Record<string, unknown> = {};
  let at = 0;
  for (const [name, shape] of shapes) {
    const bytes = shape.reduce((product, dim) => product * dim, 2);
    header[name] = { dtype: 'F16', shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  // Halves from 0x1c00 to 0x23ff, of either sign: magnitudes between 0.004 and 0.016, as trained weights have.
  const noise = new Uint16Array(2 ** 20);
  for (let i = 0, state = 1; i < noise.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    noise[i] = ((state >>> 16) & 0x8000) | (0x1c00 + ((state >>> 12) & 0x7ff));
  }
  const part = Buffer.from(noise.buffer);
  const file = openSync(path, 'w');
  writeSync(file, length);
  writeSync(file, json);
  for (let left = at; left > 0; left -= part.length) {
    writeSync(file, part, 0, Math.min(left, part.length));
  }
  closeSync(file);
}
