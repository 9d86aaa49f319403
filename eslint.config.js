import js from '@eslint/js';
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';

export default ts.config(
  {
    ignores: [
      'dist',
      'node_modules',
      'public',
      'test/goldens',
      'test/checkpoints',
      'bench/graphs',
      'src/graphs/onnx_pb.ts',
      'src/app/sketches/starters',
      'reference',
      'training',
      'test-results',
      'e2e/fixtures/dropped_in',
      'bench/.dist',
      'bench/.dist_app',
      '.cache',
      'package/dist',
      'examples',
    ],
  },
  js.configs.recommended,
  ...ts.configs.recommendedTypeChecked,
  ...svelte.configs.recommended,
  {
    languageOptions: {
      globals: { ...globals.browser, ...globals.worker },
      parserOptions: {
        project: [
          'tsconfig.app.json',
          'tsconfig.core.json',
          'tsconfig.worker.json',
          'tsconfig.package.json',
          'tsconfig.node.json',
        ],
        extraFileExtensions: ['.svelte'],
        tsconfigRootDir: import.meta.dirname,
      },
    },
    rules: {
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      curly: ['error', 'all'],
      eqeqeq: 'error',
    },
  },
  {
    files: ['**/*.svelte', '**/*.svelte.ts'],
    languageOptions: { parserOptions: { parser: ts.parser } },
  },
  {
    files: ['cli/**', 'package/**', 'bench/**', 'test/**', 'e2e/**', '*.config.*'],
    languageOptions: { globals: globals.node },
  },
  {
    files: ['svelte.config.js', 'eslint.config.js'],
    ...ts.configs.disableTypeChecked,
  },
);
