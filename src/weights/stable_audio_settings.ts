/** The configuration that Stable Audio's authors keep beside the weights, `model_config.json`. */
import { readJson } from './checkpoint.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';

const NAME = /(^|\/)model_config\.json$/;

type Json = Readonly<Record<string, unknown>>;

/** Undefined where there is none. */
export function settingsPath(files: CheckpointFiles): string | undefined {
  return files.paths().find((one) => NAME.test(one));
}

/** Where it lies and what it says; null where there is none. @throws StudioError `checkpoint_damaged` */
export async function stableAudioSettings(files: CheckpointFiles): Promise<{ path: string; values: unknown } | null> {
  const path = settingsPath(files);
  return path === undefined ? null : { path, values: await readJson(files, path) };
}

/** Empty for what is no object. */
export function objectIn(value: unknown, ...keys: string[]): Json {
  const own = keys.reduce((outer: unknown, key) => objectIn(outer)[key], value);
  return typeof own === 'object' && own !== null ? (own as Json) : {};
}

/** Of what the model is told under this name. */
export function conditionIn(settings: unknown, id: string): Json {
  const { configs } = objectIn(settings, 'model', 'conditioning');
  return objectIn(Array.isArray(configs) ? configs.find((one) => objectIn(one).id === id) : null, 'config');
}

export function numberOr(value: unknown, usual: number): number {
  return typeof value === 'number' ? value : usual;
}
