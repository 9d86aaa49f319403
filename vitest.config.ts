import { defineConfig } from 'vitest/config';

export default defineConfig({
  // Of two cores vitest would leave one idle.
  test: { include: ['test/**/*.test.ts'], environment: 'node', testTimeout: 60_000, maxWorkers: '100%' },
});
