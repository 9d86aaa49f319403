/** What the studio keeps, apart from its components. */
import { describe, expect, test } from 'vitest';
import { NEWEST_COUNT, newestFirst } from '../src/app/studio/newest_list.ts';

describe('the newest runs', () => {
  const a = { id: 'a', from: 'job' };
  const again = { id: 'a', from: 'recordings' };
  const b = { id: 'b', from: 'recordings' };

  test('are in the list once, whether a job or the recordings told of them first', () => {
    expect(newestFirst([a], [again, b])).toEqual([a, b]);
    expect(newestFirst([again, b], [a])).toEqual([again, b]);
  });

  test('are as many as fit beside the stage', () => {
    const many = Array.from({ length: NEWEST_COUNT }, (_, i) => ({ id: String(i), from: 'recordings' }));
    expect(newestFirst([a], many)).toHaveLength(NEWEST_COUNT);
    expect(newestFirst([a], many)[0]).toBe(a);
  });
});
