/** For what is compared in Node and takes too long for a test. */
import { defineConfig } from 'vitest/config';

export default defineConfig({ test: { include: ['bench/**/*.test.ts'], environment: 'node' } });
