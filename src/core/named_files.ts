/**
 * Finds the strings in an operation that stand where its chunks take files; in an operation on disk they are paths. The schemas decide, so chunks
 * that are dropped in need no list of names.
 */
import * as v from 'valibot';
import type { Catalogue } from './catalogue.ts';
import type { Operation } from './operation.ts';
import { courseOf, entriesOf } from './steps.ts';

export interface NamedFile {
  /** Keys that lead to it within the operation's parameters. */
  path: (string | number)[];
  medium: 'image' | 'audio';
}

/** What a file of each medium looks like in JSON. */
const PROBES: readonly (readonly [NamedFile['medium'], string])[] = [
  ['image', 'data:image/png;base64,AA=='],
  ['audio', 'data:audio/wav;base64,AA=='],
];

/** Empty for an operation that does not fit its config; planning says why. */
export function namedFiles({ config: name, parameters }: Operation, catalogue: Catalogue): NamedFile[] {
  const config = Object.hasOwn(catalogue.configs, name) ? catalogue.configs[name] : null;
  const course = config && courseOf(config, catalogue);
  if (!course || typeof course === 'string') {
    return [];
  }
  const found = course.steps.flatMap(({ id, chunk, wires }) => {
    const entries = entriesOf(chunk);
    const inputs = Object.entries(wires).flatMap(([entry, wire]): [string, v.GenericSchema][] =>
      wire.from === 'input' ? [[wire.name, entries[entry]]] : [],
    );
    const own = Object.entries(entries).filter(([entry]) => !Object.hasOwn(wires, entry));
    return [...filesOf([...inputs, ...own], parameters, []), ...filesOf(own, parameters[id], [id])];
  });
  return [...new Map(found.map((file) => [JSON.stringify(file.path), file])).values()];
}

function filesOf(
  schemas: readonly (readonly [string, v.GenericSchema])[],
  values: unknown,
  at: NamedFile['path'],
): NamedFile[] {
  return schemas.flatMap(([name, schema]) =>
    isRecord(values) && Object.hasOwn(values, name)
      ? filesIn(schema, values[name]).map(({ path, medium }) => ({ path: [...at, name, ...path], medium }))
      : [],
  );
}

/** Refused strings that would be valid as files. */
function filesIn(schema: v.GenericSchema, value: unknown): NamedFile[] {
  return placesOfIssues(schema, value).flatMap((path): NamedFile[] => {
    if (typeof valueAt(value, path) !== 'string') {
      return [];
    }
    const probe = PROBES.find(([, file]) =>
      placesOfIssues(schema, replaced(value, path, file)).every((other) => String(other) !== String(path)),
    );
    return probe ? [{ path, medium: probe[0] }] : [];
  });
}

function placesOfIssues(schema: v.GenericSchema, value: unknown): NamedFile['path'][] {
  const { issues = [] } = v.safeParse(schema, value);
  return issues.map(({ path = [] }) => path.map(({ key }) => key as string | number));
}

function valueAt(value: unknown, [key, ...others]: NamedFile['path']): unknown {
  return key === undefined ? value : valueAt((value as Record<string | number, unknown> | undefined)?.[key], others);
}

function replaced(value: unknown, [key, ...others]: NamedFile['path'], by: string): unknown {
  if (key === undefined) {
    return by;
  }
  const copy = Array.isArray(value) ? [...(value as unknown[])] : { ...(value as object) };
  return Object.assign(copy, { [key]: replaced(valueAt(value, [key]), others, by) });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
