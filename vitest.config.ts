import { defineConfig } from 'vitest/config';

export default defineConfig({
  // Node has a WebSocket behind a flag until version 22. Of two cores vitest would leave one idle.
  test: {
    include: ['test/**/*.test.ts'],
    environment: 'node',
    testTimeout: 60_000,
    maxWorkers: '100%',
    execArgv: ['--experimental-websocket'],
  },
});
