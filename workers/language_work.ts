/** A job's work on the language engine: its steps' models are examined before anything runs, then used over a connection of this worker's own. */
import { StudioError } from '../src/core/errors.ts';
import type { LanguageKind } from '../src/core/language.ts';
import type { PlannedStep } from '../src/core/plan.ts';
import { readRemoteModel } from '../src/core/remote.ts';
import { LanguageCheckpoint } from '../src/language/language_checkpoint.ts';
import { LanguageClient } from '../src/language/language_client.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';
import type { JobPage } from './generation_api.ts';
import { filesOf } from './source_files.ts';

export class LanguageWork {
  /** Kept between jobs, so a model stays on the device. */
  readonly client: LanguageClient;
  #page: JobPage | null = null;

  /** @param makeRoom frees the rest of the device, unless a model of this many bytes fits beside it */
  constructor(makeRoom: (bytes: number, page: JobPage) => Promise<void>) {
    this.client = new LanguageClient({
      connect: () => this.#asked.language(),
      connectIfAlive: () => this.#asked.languageIfAlive(),
      makeRoom: (bytes) => makeRoom(bytes, this.#asked),
    });
  }

  /**
   * Starts a job, whose page provides connections from now on.
   * @throws StudioError `checkpoint_…` for a language model that is missing or cannot do what its step needs
   */
  async prepare(
    page: JobPage,
    steps: readonly PlannedStep[],
    sources: Record<string, CheckpointSource>,
  ): Promise<void> {
    this.#page = page;
    for (const { id, chunk, given, language } of steps) {
      const service = catalogue.chunks[chunk].meta.needs.language;
      if (given === null && service && language !== null && !isOnServer(service, language)) {
        await look(id, service, language, sources);
      }
    }
  }

  get #asked(): JobPage {
    if (!this.#page) {
      throw new StudioError('internal', 'The language engine was asked outside of a job; reload the page.');
    }
    return this.#page;
  }
}

/** Whether a step's language model is on a server. Voices never are. */
export function isOnServer(service: LanguageKind, ref: string): boolean {
  return service === 'text' && readRemoteModel(ref) !== null;
}

async function look(
  step: string,
  service: LanguageKind,
  ref: string,
  sources: Record<string, CheckpointSource>,
): Promise<void> {
  const what = service === 'text' ? 'language model' : 'voice';
  if (!Object.hasOwn(sources, ref)) {
    throw new StudioError('checkpoint_incomplete', `The ${what} "${ref}" is not here; get it first, then try again.`);
  }
  const { kind, files } = await LanguageCheckpoint.open(await filesOf(sources[ref]));
  if (kind !== service) {
    const does = kind === 'speech' ? 'speaks and does not write' : 'writes and does not speak';
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" ${does}, and the step "${step}" needs a ${what}; choose another one.`,
    );
  }
}
