/** The context of a chunk while its step runs: models, language services, engines on other machines, and ways to report and record. */
import * as Comlink from 'comlink';
import type { Context } from '../src/core/chunk.ts';
import { StudioError, assert } from '../src/core/errors.ts';
import type { Plan, PlannedStep } from '../src/core/plan.ts';
import { SENT, answerLost, readRemoteModel, wasSent } from '../src/core/remote.ts';
import type { SpeechService, StepSpeech } from '../src/core/speech_service.ts';
import type {
  ModelLoading,
  StepText,
  TextDelta,
  TextRequest,
  TextResult,
  TextService,
} from '../src/core/text_service.ts';
import { openEngine } from '../src/engines/engine.ts';
import { decodePicture } from '../src/formats/picture.ts';
import { medium as audio } from '../src/media/audio.ts';
import { resampled } from '../src/media/audio/resampling.ts';
import { asModel, asMusicModel, asSongModel, asSoundModel, asUpscaler } from '../src/models/family.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import type { EventSender } from './connection.ts';
import type { JobPage } from './generation_api.ts';
import type { GraphWork } from './graph_work.ts';
import { isOnServer } from './language_work.ts';

/** What a job runs with once it is planned. */
export interface Prepared {
  jobId: string;
  plan: Plan;
  /** The steps' checkpoints on the graph engine; null if no step needs one. */
  graph: GraphWork | null;
  /** The language engine, started on first use. */
  language: TextService & SpeechService;
  /** Whether recorded results contain their settings. */
  inscribes: boolean;
  page: Pick<JobPage, 'secret' | 'servers' | 'develop' | 'used' | 'write' | 'stopWriting'>;
}

/** What the execution does for the current step. */
export interface StepDesk {
  prepared: Prepared;
  events: EventSender;
  signal: AbortSignal;
  canvas: () => OffscreenCanvas | null;
  /** Saves what the step can resume from in a later attempt. */
  keep: (kept: unknown) => void;
  notice: (message: string) => void;
  /** How far a stage is. */
  report: (stage: string, done?: number, steps?: number) => void;
  /** How much of a language model is loaded, from 0 to 1. */
  load: (share: number) => void;
  /** Its place in a server's line. */
  place: Context['place'];
  /** Metadata of a result made by a server. */
  madeBy: (origin: Record<string, unknown>) => void;
  record: Context['record'];
  recordBeside: Context['recordBeside'];
  keepPart: Context['keepPart'];
}

/** @param resume what the step saved in an earlier attempt */
export function contextOf(step: PlannedStep, resume: unknown, desk: StepDesk): Context {
  const { prepared, signal } = desk;
  const { plan, graph, page } = prepared;
  const graphOf = () => {
    if (!graph) {
      throw new StudioError('internal', `The chunk "${step.chunk}" asks for a checkpoint and declares none.`);
    }
    return graph;
  };
  return {
    resume,
    keep: desk.keep,
    operation: step.operation,
    checkpoint: step.checkpoint ?? '',
    models: {
      load: async (_, additions) => {
        const { model, notices } = await graphOf().load(step, additions);
        notices.forEach(desk.notice);
        return asModel(model);
      },
      loadUpscaler: async (ref) =>
        ref === step.checkpoint ? asUpscaler((await graphOf().load(step)).model) : graphOf().lend(step, ref),
      loadLatentUpsampler: (ref) => Promise.resolve(graphOf().lendUpsampler(step, ref)),
      loadSoundModel: async () => asSoundModel((await graphOf().load(step)).model),
      loadMusicModel: async () => asMusicModel((await graphOf().load(step)).model),
      loadSongModel: async () => asSongModel((await graphOf().load(step)).model),
    },
    readImage: decodePicture,
    readSound: async (source, rate) => {
      const file = typeof source === 'string' ? await (await fetch(source)).blob() : source;
      return resampled(await audio.decode(file), rate);
    },
    progress: desk.report,
    place: desk.place,
    delta: (text, thinking = false) => {
      desk.events.send({ type: 'delta', step: step.id, text, thinking });
    },
    sound: (piece) => {
      desk.events.send({ type: 'sound', step: step.id, ...piece });
    },
    preview: desk.canvas,
    develop: (picture) => {
      // Failing to show it is no reason to fail.
      page.develop(picture).catch(() => undefined);
    },
    notice: desk.notice,
    wants: (what) => plan.operation.record.includes(what),
    record: desk.record,
    recordBeside: desk.recordBeside,
    writeVideo: async (request) => {
      const { openVideoWriter } = await import('../src/media/video/writing.ts');
      const writer = await openVideoWriter(request);
      if (writer.notice !== null) {
        desk.notice(writer.notice);
      }
      return writer;
    },
    keepPart: desk.keepPart,
    recordTensors: (type, tensors, metadata) =>
      desk.record(type, new Blob([writeSafetensors(Object.entries(tensors))]), { format: 'safetensors', ...metadata }),
    secret: (name) => page.secret(name),
    engine: () => {
      const { remote } = catalogue.chunks[step.chunk].meta.needs;
      assert(remote !== undefined, `the chunk "${step.chunk}" names the engine that it uses`);
      return openEngine(remote, {
        servers: () => page.servers(remote),
        secret: (name) => page.secret(name),
        used: (server, usage) => void page.used(server.id, usage).catch(() => undefined),
        signal,
      });
    },
    signal,
    ...servicesOf(step, resume, desk),
  };
}

/** The language services for this step's chunk, see `ContextOf`. */
function servicesOf(step: PlannedStep, resume: unknown, desk: StepDesk): { text?: StepText; speech?: StepSpeech } {
  const { chunk, language } = step;
  const { needs } = catalogue.chunks[chunk].meta;
  if (!needs.language || language === null) {
    return {};
  }
  if (isOnServer(needs.language, language)) {
    const generate: StepText['generate'] = (request, onDelta) =>
      writeOnServer({ ...request, model: language }, onDelta, resume, desk);
    return { text: { generate } };
  }
  const {
    prepared: { language: engine },
    signal,
  } = desk;
  const onLoading = ({ done, total }: ModelLoading) => {
    desk.load(total === 0 ? 1 : done / total);
  };
  return needs.language === 'text'
    ? {
        text: {
          generate: (request, onDelta) => engine.generate({ ...request, model: language }, onDelta, signal, onLoading),
        },
      }
    : { speech: { speak: (request) => engine.speak({ ...request, model: language }, signal, onLoading) } };
}

/** Asks once, however often the job is begun: an answer that was lost may have been paid for. */
async function writeOnServer(
  request: TextRequest,
  onDelta: (delta: TextDelta) => void,
  resume: unknown,
  { prepared: { page }, keep, madeBy, signal }: StepDesk,
): Promise<TextResult> {
  if (wasSent(resume)) {
    throw answerLost();
  }
  keep(SENT);
  const writing = crypto.randomUUID();
  const stop = () => void page.stopWriting(writing).catch(() => undefined);
  signal.addEventListener('abort', stop);
  try {
    const { result, usage } = await page.write(writing, request, Comlink.proxy(onDelta));
    const { engine, address: server, model } = readRemoteModel(request.model) ?? {};
    madeBy({ made_by: { engine, server, model, usage } });
    return result;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
