/** Runs jobs that do not use the graph engine, in parallel: they compute nothing here, or ask language models. */
import type * as Comlink from 'comlink';
import { StudioError } from '../src/core/errors.ts';
import type { JobEvent } from '../src/core/job.ts';
import { parseOperation } from '../src/core/operation.ts';
import { plan } from '../src/core/plan.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { EventSender, callsTo } from './connection.ts';
import { earlierRun } from './earlier_run.ts';
import { Execution } from './execution.ts';
import { LanguageWork } from './language_work.ts';
import type { ExecuteRequest, JobPage, TaskApi } from './generation_api.ts';
import type { RecorderApi } from '../src/recorder/recorder_api.ts';
import './media_files.ts';

export class TaskRunner implements TaskApi {
  #recorder: Comlink.Remote<RecorderApi> | undefined;
  readonly #language = new LanguageWork((bytes, page) => page.makeRoom(bytes));
  readonly #running = new Map<string, AbortController>();

  connect(recorder: MessagePort): Promise<void> {
    this.#recorder = callsTo<RecorderApi>(recorder);
    return Promise.resolve();
  }

  async execute(request: ExecuteRequest, onEvent: (event: JobEvent) => void, page: JobPage): Promise<{ run: string }> {
    if (!this.#recorder) {
      throw new StudioError('internal', 'The recorder was not connected; reload the page.', { retry: 'same' });
    }
    const { jobId, operation, sources, inscribes, point } = request;
    const events = new EventSender(onEvent);
    const controller = new AbortController();
    this.#running.set(jobId, controller);
    try {
      const { run, isDone } = await earlierRun(request, this.#recorder, events);
      if (isDone) {
        return { run };
      }
      const result = plan(parseOperation(operation), catalogue, () => null, null, point?.parameters);
      if (!result.ok) {
        const [{ code }] = result.reasons;
        throw new StudioError(code, result.reasons.map(({ message }) => message).join(' '));
      }
      await this.#language.prepare(page, result.plan.steps, sources);
      const prepared = { jobId, plan: result.plan, graph: null, language: this.#language.client, inscribes, page };
      return await new Execution(prepared, this.#recorder, events, controller.signal, () => null).run(run, point);
    } finally {
      this.#running.delete(jobId);
      await events.delivered();
    }
  }

  cancel(jobId: string): Promise<void> {
    this.#running.get(jobId)?.abort();
    return Promise.resolve();
  }
}
