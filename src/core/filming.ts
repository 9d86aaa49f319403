/** What chunks that make videos share: the way from words, and perhaps a first picture, to a video that is written while it is decoded. */
import type { Context, Outputs } from './chunk.ts';
import { StudioError } from './errors.ts';
import type { LoraUse } from './loras.ts';
import type { DecodingNoise, Latents, Model, SampleRequest } from './model.ts';
import type { NoiseRequest } from './noise.ts';
import { pictureSize, sayWhatWasCut, watched } from './painting.ts';
import { usualStrength, type ImageSource } from './parameters.ts';
import { UPSAMPLING, type Upsampling } from './upsampling_parameters.ts';
import type { Video, VideoFormat } from './video.ts';

export interface Film {
  frames: number;
  rate: number;
  format: VideoFormat;
  tile_size?: number | undefined;
  phased?: boolean | undefined;
  /** See `DecodeRequest`. */
  noise?: DecodingNoise | undefined;
}

/** The parameters of a video that a flow makes as a whole, already validated by the chunk. */
export interface Filming
  extends
    Omit<Film, 'noise'>,
    Upsampling,
    Omit<NoiseRequest, 'batch_size'>,
    Pick<SampleRequest, 'steps' | 'timesteps' | 'guidance_scale' | 'sampler' | 'schedule' | 'shift'> {
  prompt: string;
  negative_prompt: string;
  width?: number | undefined;
  height?: number | undefined;
  /** The first frame, and the last. */
  image?: ImageSource | undefined;
  last_image?: ImageSource | undefined;
  loras?: LoraUse[] | undefined;
}

/**
 * @param piece frames per latent, except the first
 * @param noise for a decoder that takes some
 * @throws StudioError `invalid_operation` for what the checkpoint cannot do
 */
export async function makeVideo(
  input: Filming,
  context: Context,
  piece: number,
  noise?: Omit<DecodingNoise, 'random'>,
): Promise<Outputs> {
  const { progress } = context;
  const { takeLoraTags } = await import('./lora_tags.ts');
  const { words, loras: tagged } = takeLoraTags(input.prompt, input.steps);
  const model = await context.models.load(context.checkpoint, { loras: [...(input.loras ?? []), ...tagged] });
  requireBeginning(input, model);
  const picture = input.image === undefined ? undefined : await context.readImage(input.image, 'image');
  const end = input.last_image === undefined ? undefined : await context.readImage(input.last_image, 'last_image');
  const size = pictureSize(input, picture ?? end, model, context);
  requireSize(size, model);
  const batch_size = input.frames;
  const { noiseSource } = await import('./noise_sources.ts');
  const random = noiseSource({ seed: input.seed, batch_size: 1 });

  progress('encode');
  const text = await model.encodeText({ ...input, prompt: words, batch_size });
  let latents: Latents | undefined;
  const sample = async (request: SampleRequest): Promise<Latents> => {
    const { width, height, random: own } = request;
    const given = { first: picture, last: end, width, height, batch_size, random: own };
    const ends = picture || end ? await model.encodeEnds?.(given) : {};
    try {
      return await model.sample(text, { ...request, ...ends });
    } finally {
      for (const one of [...(ends?.shown ?? []), ends?.last]) {
        one?.dispose();
      }
    }
  };
  try {
    const { tokens, texts } = text;
    sayWhatWasCut('prompt', tokens.prompt, tokens.limit, context);
    sayWhatWasCut('negative prompt', tokens.negative, tokens.limit, context);
    await context.record('encoded_prompt', { prompt: texts.prompt, negative_prompt: texts.negative, tokens });
    const request: SampleRequest = {
      ...input,
      ...size,
      batch_size,
      strength: usualStrength(false),
      guidance_mode: 'serial',
      random,
      start: undefined,
      mask: undefined,
      ...watched(context),
    };
    let made = { ...size, random };
    if (input.latent_upsampler === undefined) {
      latents = await sample(request);
    } else {
      const { latent_upsampler: ref } = input;
      const { sampleTwice } = await import('./second_filming.ts');
      const again = noiseSource({ seed: input.seed, batch_size: 1 });
      const load = () => context.models.loadLatentUpsampler(ref);
      latents = await sampleTwice(model, request, input, again, (batch_size - 1) / piece + 1, sample, load);
      made = { width: UPSAMPLING.factor * size.width, height: UPSAMPLING.factor * size.height, random: again };
    }
    progress('decode', 0, input.frames);
    if (context.wants('latents')) {
      const [batch, channels, rows, width] = latents.dims;
      const frames = (input.frames - 1) / piece + 1;
      const dims = [batch, channels, frames, rows / frames, width];
      await context.recordTensors('latents', { latents: { dims, data: await latents.read() } });
    }
    return {
      video: await film({ ...input, noise: noise && { ...noise, random: made.random } }, made, latents, model, context),
    };
  } finally {
    text.dispose();
    latents?.dispose();
  }
}

/** @throws StudioError `invalid_operation` for a picture that the checkpoint does not take, or lacks */
function requireBeginning({ image: given, last_image }: Filming, { summary }: Model): void {
  const { name, firstFrame, lastFrame } = summary;
  if (last_image !== undefined && lastFrame === undefined) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes no videos that end with a given picture; leave last_image out, or choose a checkpoint that ends with one, such as LTX-Video 0.9.5 or Wan 2.2 I2V.`,
    );
  }
  if (given !== undefined && firstFrame === undefined) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes videos from words alone; leave image out, or choose a checkpoint that begins with a picture.`,
    );
  }
  if (last_image === undefined && lastFrame === 'must') {
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes videos that begin and end with a picture; give both, or choose a checkpoint that needs only the first.`,
    );
  }
  if (given === undefined && firstFrame === 'must') {
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes videos that begin with a picture; give one as image, or choose a checkpoint for words alone.`,
    );
  }
}

/** @throws StudioError `invalid_operation` for sides that the checkpoint cannot cut into its patches */
function requireSize({ width, height }: { width: number; height: number }, { summary }: Model): void {
  const { name, multiple = 16 } = summary;
  if (width % multiple !== 0 || height % multiple !== 0) {
    const nearest = [width, height].map((side) => Math.max(1, Math.round(side / multiple)) * multiple).join('×');
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes videos whose sides are multiples of ${multiple} pixels, not ${width}×${height}; the nearest size is ${nearest}.`,
    );
  }
}

/** Each frame is encoded as soon as it is decoded. A video that is cancelled half way keeps its frames so far, as the output `video`. */
export async function film(
  { frames, rate, format, tile_size, phased, noise }: Film,
  size: { width: number; height: number },
  latents: Latents,
  model: Model,
  { progress, signal, notice, writeVideo, keepPart }: Context,
): Promise<Video> {
  const writer = await writeVideo({ ...size, rate, format });
  let done = 0;
  try {
    await model.decode(latents, {
      tile_size,
      phased,
      frames,
      noise,
      signal,
      take: async (frame) => {
        await writer.add(frame);
        done += 1;
        progress('decode', done, frames);
      },
      onPart: () => undefined,
    });
    return await writer.finish();
  } catch (error) {
    if (signal.aborted && done > 0) {
      notice(`Cancelled after ${done} of ${frames} frames, which are kept as a shorter video.`);
      await keepPart('video', await writer.finish());
    } else {
      await writer.discard();
    }
    throw error;
  }
}
