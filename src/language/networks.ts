/** Passes a language checkpoint's networks to transformers.js: graphs without weights, and the weights streamed separately. */
import type * as Ort from 'onnxruntime-web';
import { StudioError } from '../core/errors.ts';
import type { LanguagePrecision } from '../core/language.ts';
import type { ModelLoading } from '../core/text_service.ts';
import { readOnnxFile } from '../weights/onnx_file.ts';
import { networkPath } from './language_checkpoint.ts';
import type { LanguageCheckpoint } from './language_checkpoint.ts';
import type { LanguageRuntime } from './language_runtime.ts';
import type { TransformersLibrary, TransformersModule } from './transformers_library.ts';

/** Arguments for a model class's `from_pretrained`. */
export interface LoadOptions {
  config: InstanceType<TransformersModule['PretrainedConfig']>;
  device: 'auto';
  dtype: Record<string, LanguagePrecision>;
  model_file_name: string;
  use_external_data_format: false;
  session_options: Ort.InferenceSession.SessionOptions;
}

/**
 * @param make calls `from_pretrained` with the arguments it gets
 * @throws StudioError `checkpoint_unsupported` for a precision that is unavailable or cannot run, and whatever reading and the engine throw
 */
export async function openNetworks<T>(
  library: TransformersLibrary,
  runtime: LanguageRuntime,
  checkpoint: LanguageCheckpoint,
  precision: LanguagePrecision,
  onLoading: (loading: ModelLoading) => void,
  make: (name: string, options: LoadOptions) => Promise<T>,
): Promise<T> {
  const { files } = checkpoint;
  const taken = checkpoint.networkPrecisions(precision);
  if (!taken) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" is not there as ${precision}; choose another one.`,
    );
  }
  const graphs = await Promise.all(
    Object.entries(taken).map(([network, one]) => readOnnxFile(files, networkPath(network, one))),
  );
  const externals = new Map(
    graphs.flatMap((graph) => graph.externals).map((external) => [external.location, external]),
  );
  const blobs = new Map<string, Blob>();
  for (const location of externals.keys()) {
    blobs.set(location, await files.blob(location));
  }
  const total = graphs.reduce((sum, { weightBytes }) => sum + weightBytes, 0);
  let done = 0;
  onLoading({ done, total });
  const weights = await runtime.mount([...externals.values()], blobs, (bytes) => {
    done = Math.min(done + bytes, total);
    onLoading({ done, total });
  });
  const byPath = new Map(graphs.map(({ path, bytes }) => [path, bytes]));
  const read = async (path: string) => {
    const graph = byPath.get(path);
    if (graph || !files.has(path)) {
      return graph ?? null;
    }
    return new Uint8Array(await (await files.blob(path)).arrayBuffer());
  };
  const options: LoadOptions = {
    config: new library.module.PretrainedConfig(checkpoint.config),
    device: 'auto',
    dtype: taken,
    model_file_name: checkpoint.networks[0],
    use_external_data_format: false,
    session_options: {
      // Rotary angles: a GPU's sines are imprecise, and wrong at high positions.
      executionProviders: runtime.providers(graphs.flatMap(({ cpuNodes }) => cpuNodes)),
      externalData: weights.files,
      graphOptimizationLevel: 'all',
      logSeverityLevel: 3,
      ...(runtime.device.backend === 'webgpu' && {
        // Keys and values stay on the device for the next token.
        preferredOutputLocation: Object.fromEntries(
          graphs.flatMap(({ outputs }) =>
            outputs.map(({ name }) => [name, name.startsWith('present') ? 'gpu-buffer' : 'cpu']),
          ),
        ),
      }),
    },
  };
  try {
    const model = await runtime.create(() => library.withFiles(read, (name) => make(name, options)));
    onLoading({ done: total, total });
    return model;
  } finally {
    weights.close();
  }
}
