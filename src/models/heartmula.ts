/**
 * HeartMuLa in the folder that heartlib runs: `HeartMuLa-oss-3B`, `HeartCodec-oss`, `tokenizer.json` and `gen_config.json`. Versions of both models
 * are found by the beginning of their folders' names.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import * as heartCodec from '../graphs/heart_codec.ts';
import * as heartMula from '../graphs/heart_mula.ts';
import { PlainTokenizer } from '../text/plain_tokenizer.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import type { Family, LoadedSongModel, OpenOptions } from './family.ts';
import { summarise } from './flow_transformer/flow_checkpoint.ts';
import { HeartModel, signsSchema } from './song_writing/heart_model.ts';
import { HeartNetworks } from './song_writing/heart_networks.ts';

const PIPELINE_CLASS = 'HeartMuLaGenPipeline';
const [MULA, CODEC] = ['HeartMuLa', 'HeartCodec'];
const [TOKENIZER, SIGNS] = ['tokenizer.json', 'gen_config.json'];
/** The length that the estimate reckons with where nobody says one. */
const USUAL_SECONDS = 60;
const USUAL = { steps: 10, guidance_scale: 1.5 };

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedSongModel> {
  const [mula, codec] = [MULA, CODEC].map((name) => folderOf(files, name));
  for (const path of [TOKENIZER, SIGNS]) {
    if (!files.has(path)) {
      throw new StudioError('checkpoint_incomplete', `"${files.name}" lacks ${path}; ${WHOLE}`);
    }
  }
  const checkpoint = Checkpoint.withoutIndex(files, PIPELINE_CLASS);
  const [writes, plays] = await Promise.all([
    checkpoint.componentOf(mula, heartMula.className),
    checkpoint.componentOf(codec, heartCodec.className),
  ]);
  const signs = v.safeParse(signsSchema, await checkpoint.json(SIGNS));
  if (!signs.success) {
    throw new StudioError(
      'checkpoint_damaged',
      `${SIGNS} of "${files.name}" does not say where texts and songs end; get it again.`,
    );
  }
  const text = await checkpoint.text(TOKENIZER);
  const tokenizer = new PlainTokenizer({ read: (name) => (name === TOKENIZER ? text : undefined) });
  const networks = new HeartNetworks(engine, files, writes, plays, weights);
  const { audio_num_codebooks: codes } = networks.writer.config;
  const { num_quantizers: read } = networks.sounds.config;
  if (codes !== read) {
    throw new StudioError(
      'checkpoint_damaged',
      `"${files.name}" writes ${codes} codes a frame and its codec reads ${read}; the files do not belong together.`,
    );
  }
  const tables = [heartMula.TEXT_TABLE, heartMula.AUDIO_TABLE, heartMula.NOTHING_TABLE];
  const summary = await summarise(
    checkpoint,
    { className: '', values: {} },
    [
      { component: writes, weights, apart: (name) => tables.includes(name) || name.startsWith('muq_linear.') },
      { component: plays, weights, apart: (name) => !/^(?:flow_matching|scalar_model\.decoder)\./.test(name) },
    ],
    [],
    { width: Math.ceil(USUAL_SECONDS * heartCodec.FRAMES_PER_SECOND), height: 1, ...USUAL },
    1,
  );
  return new HeartModel(files, engine, networks, tokenizer, signs.output, {
    ...summary,
    needs: [...summary.needs, TOKENIZER, SIGNS],
    takesLoras: false,
    samplers: [],
    seconds: networks.form.seconds,
    latentsPerSecond: heartCodec.FRAMES_PER_SECOND,
  });
}

const WHOLE =
  'choose a folder that holds HeartMuLa-oss-3B, HeartCodec-oss, tokenizer.json and gen_config.json, as heartlib has it.';

/** @throws StudioError `checkpoint_incomplete`, `checkpoint_unsupported` where several versions lie side by side */
function folderOf(files: CheckpointFiles, name: string): string {
  const found = foldersOf(files, name);
  if (found.length > 1) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" holds several models of one kind (${found.join(', ')}); leave only one of them in the folder.`,
    );
  }
  if (found.length === 0) {
    throw new StudioError(
      'checkpoint_incomplete',
      name === CODEC
        ? `"${files.name}" lacks its codec, without which there is no sound; ${WHOLE}`
        : `"${files.name}" lacks the model that writes songs; ${WHOLE}`,
    );
  }
  return found[0];
}

function foldersOf(files: CheckpointFiles, name: string): string[] {
  return files.paths().flatMap((path) => {
    const [folder, file, ...deeper] = path.split('/');
    return folder.startsWith(name) && file === 'config.json' && deeper.length === 0 ? [folder] : [];
  });
}

/** Also one of the two models by itself, to say what is missing. */
async function recognises(files: CheckpointFiles): Promise<boolean> {
  if (files.has('model_index.json')) {
    return false;
  }
  if (foldersOf(files, MULA).length > 0 || foldersOf(files, CODEC).length > 0) {
    return true;
  }
  return (
    files.has('config.json') &&
    /"model_type":\s*"heart(?:mula|codec)"/.test(await (await files.blob('config.json')).text())
  );
}

export const family: Family = { pipelineClasses: [PIPELINE_CLASS], recognises, open };
