/** What queue and recordings call a job. */
import { expect, test } from 'vitest';
import { wordsAsked } from '../src/core/job_words.ts';

test('a song without a prompt is called by the first line that is sung', () => {
  const lyrics = '\n[verse]\n  Morning light \nOver the hill\n[chorus]\nCome home';
  expect(wordsAsked({ prompt: '', lyrics })).toBe('Morning light');
  expect(wordsAsked({ lyrics: 'No section here' })).toBe('No section here');
  expect(wordsAsked({ prompt: 'folk, warm', lyrics })).toBe('folk, warm');
  expect(wordsAsked({ lyrics: '[instrumental]\n' })).toBe('');
  expect(wordsAsked({ prompt: 3 })).toBe('');
});
