import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { defineConfig } from 'vitest/config';

/** They take longest, in this order. Of the others vitest knows nothing on a fresh machine but their sizes, and began the longest near the end. */
const FIRST = ['fidelity', 'recorder', 'samplers', 'graphs', 'published_layers', 'onnx_checkpoint'];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const others = await super.sort(files);
    const first = FIRST.flatMap((name) => others.filter(({ moduleId }) => moduleId.endsWith(`/test/${name}.test.ts`)));
    return [...first, ...others.filter((file) => !first.includes(file))];
  }
}

export default defineConfig({
  // Node has a WebSocket behind a flag until version 22. Of two cores vitest would leave one idle.
  test: {
    include: ['test/**/*.test.ts'],
    environment: 'node',
    testTimeout: 60_000,
    maxWorkers: '100%',
    sequence: { sequencer: LongestFirst },
    execArgv: ['--experimental-websocket'],
  },
});
