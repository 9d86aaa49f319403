/** X/Y/Z plots: lists of values as people of AUTOMATIC1111 write them, and the operations that they become. */
import { describe, expect, test } from 'vitest';
import { cellOperation, cellsOf, parseValues, type AxisKind, type PlotAxis } from '../src/core/plots.ts';
import { parseOperation } from '../src/core/operation.ts';

const axis = (parameter: string, kind: AxisKind, values: string[]): PlotAxis => ({
  parameter,
  kind,
  label: parameter,
  values,
});

describe('values', () => {
  // The numbers of scripts/xyz_grid.py, whose documentation these examples are from.
  test.each<[string, AxisKind, string[]]>([
    ['1-5', 'integer', ['1', '2', '3', '4', '5']],
    ['1-5 (+2)', 'integer', ['1', '3', '5']],
    ['10-5 (-3)', 'integer', ['10', '7']],
    ['1-3 (+0.5)', 'real', ['1', '1.5', '2', '2.5', '3']],
    ['1-10 [5]', 'integer', ['1', '3', '5', '7', '10']],
    ['0.0-1.0 [6]', 'real', ['0', '0.2', '0.4', '0.6', '0.8', '1']],
    ['0.1-0.3 (+0.1)', 'real', ['0.1', '0.2', '0.3']],
    ['20, 30,\n40', 'integer', ['20', '30', '40']],
    ['18446744073709551615, 7-8', 'integer', ['18446744073709551615', '7', '8']],
    ['-1-1', 'integer', ['-1', '0', '1']],
    ['euler, dpmpp_2m', 'choice', ['euler', 'dpmpp_2m']],
    ['cat, "a dog, asleep", the ""fox""', 'replace', ['cat', 'a dog, asleep', 'the ""fox""']],
    ['', 'integer', []],
  ])('%j of %s', (text, kind, values) => {
    expect(parseValues(text, kind)).toEqual(values);
  });

  test.each(['four', '1-', '3-1', '1-5 (+0)'])('%j is no number', (text) => {
    expect(() => parseValues(text, 'integer')).toThrow(/is no number and no range/);
  });
});

test('cells vary the parameters, the first axis fastest', () => {
  const base = parseOperation({
    operation: 'image_generation',
    config: 'stable_diffusion',
    parameters: { prompt: 'a cat and a cat', seed: '7', loras: [{ lora: 'lora:import:ink', weight: 1 }] },
  });
  const axes = [
    axis('steps', 'integer', ['1', '2']),
    axis('prompt', 'replace', ['cat', 'dog']),
    axis('lora:lora:import:ink', 'real', ['0.5']),
  ];
  const cells = cellsOf(axes).map((places) => cellOperation(base, axes, places).parameters);
  expect(cells.map(({ steps, prompt }) => [steps, prompt])).toEqual([
    [1, 'a cat and a cat'],
    [2, 'a cat and a cat'],
    [1, 'a dog and a dog'],
    [2, 'a dog and a dog'],
  ]);
  expect(cells[3]).toMatchObject({ seed: '7', loras: [{ lora: 'lora:import:ink', weight: 0.5 }] });
  expect(cellOperation(base, [axis('seed', 'integer', ['9'])], [0]).parameters.seed).toBe('9');
  expect(() => cellOperation(base, [axis('prompt', 'replace', ['fox', 'owl'])], [0])).toThrow(/"fox" stands neither/);
  const long = axis('seed', 'integer', Array.from({ length: 20 }, String));
  expect(() => cellsOf([long, long])).toThrow('A plot of 400 pictures is too large; make it at most 150.');
});
