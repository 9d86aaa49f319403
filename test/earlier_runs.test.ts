/**
 * A job whose page goes at any moment is recorded once: a task worker and a recorder over a disk that shows what it holds at each operation, and
 * a queue that knows everything it was told by then, or nothing.
 */
import { expect, test } from 'vitest';
import type { Entity, JobEvent } from '../src/core/job.ts';
import { parseOperation } from '../src/core/operation.ts';
import { Recorder } from '../src/recorder/recorder.ts';
import { serveOn } from '../workers/connection.ts';
import type { ExecuteRequest, JobPage } from '../workers/generation_api.ts';
import { RecorderOwner } from '../workers/recorder_owner.ts';
import { TaskRunner } from '../workers/task_runner.ts';
import { Disk } from './faulty_disk.ts';

const NOON = new Date('2026-03-04T12:00:00');

/** Words that a person brings: a job that needs no model. */
const operation = parseOperation({
  operation: 'image_generation',
  config: 'interception_own',
  parameters: { prompt: 'a cat', interception: { instruction: 'Say it in red.' } },
  given: { interception: { text: 'a red cat' } },
  until: 'interception',
});

const FIRST: ExecuteRequest = {
  jobId: 'job-1',
  submittedAt: NOON.getTime(),
  operation,
  sources: {},
  inscribes: true,
  attempt: 1,
  run: null,
  point: null,
};

/** What a queue knows of a job. */
interface Known {
  run: string | null;
  entities: Entity[];
}

/** A page's workers over a disk. */
function page(disk: Disk) {
  const recorder = new Recorder(disk, () => NOON);
  const owner = new RecorderOwner(() => Promise.resolve({ recorder, report: { persistent: true, note: null } }));
  const { port1, port2 } = new MessageChannel();
  serveOn(port1, owner);
  const tasks = new TaskRunner();
  return {
    recorder,
    async execute(request: ExecuteRequest, onEvent: (event: JobEvent) => void) {
      await tasks.connect(port2);
      return tasks.execute(request, onEvent, {} as JobPage);
    },
    close() {
      port1.close();
      port2.close();
    },
  };
}

function take(known: Known, event: JobEvent): Known {
  if (event.type === 'run') {
    return { run: event.run, entities: [] };
  }
  return event.type === 'entity' ? { ...known, entities: [...known.entities, event.entity] } : known;
}

test('a job whose page goes at any moment goes on in its run, and one whose run has ended is not made again', async () => {
  const nothing: Known = { run: null, entities: [] };
  let known = nothing;
  const moments: { files: Map<string, Uint8Array>; known: Known }[] = [];
  const disk = new Disk();
  disk.watch = ({ files }) => moments.push({ files, known });
  const first = page(disk);
  await first.execute(FIRST, (event) => (known = take(known, event)));
  await first.recorder.settled();
  disk.watch = null;
  // Its end was recorded, and the queue was not told.
  moments.push({ files: disk.snapshot(), known });
  const [whole] = await first.recorder.listRuns({ limit: 9 });
  first.close();
  const recorded = whole.entities.map(({ filename, sha256 }) => [filename, sha256]);
  expect(whole.current_state.stage).toBe('completed');
  expect(recorded.length).toBeGreaterThan(2);

  const adopted = { unheard: 0, ended: 0 };
  for (const moment of moments) {
    for (const before of moment.known.run === null ? [nothing] : [moment.known, nothing]) {
      const again = new Disk(moment.files);
      const at = await new Recorder(new Disk(moment.files), () => NOON).listRuns({ limit: 9 });
      const second = page(again);
      let after = before;
      const { run } = await second.execute({ ...FIRST, attempt: 2, run: before.run }, (event) => {
        after = take(after, event);
      });
      await second.recorder.settled();
      const records = await second.recorder.listRuns({ limit: 9 });
      second.close();
      expect(records.map(({ run_id }) => run_id)).toEqual([run]);
      expect(after.run).toBe(run);
      expect(records[0].current_state.stage).toBe('completed');
      expect(records[0].entities.map(({ type }) => type)).toEqual(whole.entities.map(({ type }) => type));
      expect(new Set(after.entities.map(({ filename }) => filename))).toEqual(
        new Set(records[0].entities.map(({ filename }) => filename)),
      );
      if (at.length > 0) {
        expect(run).toBe(at[0].run_id);
        adopted.unheard += Number(before.run === null);
      }
      if (at[0]?.current_state.stage === 'completed') {
        expect(records[0]).toEqual(at[0]);
        adopted.ended += 1;
      }
    }
  }
  console.log(
    `A page that goes at any of ${moments.length} moments: ${JSON.stringify(adopted)} adopted, none made twice`,
  );
  expect(adopted.unheard).toBeGreaterThan(20);
  expect(adopted.ended).toBeGreaterThan(5);
});
