/**
 * Plan before running: which steps, with which values, on which checkpoints, or typed reasons why not. Pure: the same answer for the page
 * before a download and for the worker before a run. Whether it fits the device is judged in `fit.ts`.
 */
import { own } from './catalogue.ts';
import type { Catalogue } from './catalogue.ts';
import type { ErrorCode } from './errors.ts';
import { StudioError } from './errors.ts';
import type { DeviceReport, ResumePoint } from './job.ts';
import { isWritten } from './media.ts';
import { isVariant } from './model.ts';
import type { CheckpointSummary, WeightVariant } from './model.ts';
import type { Operation } from './operation.ts';
import { parse } from './operation.ts';
import { courseOf, entriesOf, fieldsOf, openEntries, valuesOf } from './steps.ts';
import type { Course, Step } from './steps.ts';

/** One step of a plan, with every value settled. */
export interface PlannedStep {
  id: string;
  /** The chunk's id. */
  chunk: string;
  /** The kind of operation that it carries out. */
  operation: string;
  parameters: Record<string, unknown>;
  /** Parameters that earlier steps give: by name, the step and its output. They are not among `parameters`. */
  wired: Record<string, { step: string; output: string }>;
  /** Its outputs, where the operation brings them; then it is not run. */
  given: Record<string, unknown> | null;
  /** The ref of the checkpoint that it runs; null for a chunk that needs none. */
  checkpoint: string | null;
  /** The ref of the language model that it runs; null for a chunk that needs none. */
  language: string | null;
}

export interface Plan {
  operation: Operation;
  config: string;
  pipeline: string;
  /** Those that are run, or given, in order. */
  steps: PlannedStep[];
  /** Of the step that the config is about; empty where that needs none. */
  checkpoint: string;
  /** How its weights are run; `full` until `fit` chose. */
  variant: WeightVariant;
  /** The most bytes on the device at once; before `fit` its weights in full precision. */
  memoryBytes: number;
  /** Bytes to fetch before it can run; null until `fit` said. */
  downloadBytes: number | null;
  /** Without loading; null where nothing was measured yet. */
  seconds: number | null;
  /** What was chosen for the person, as whole sentences. */
  notices: string[];
}

export interface Refusal {
  code: ErrorCode;
  message: string;
}

export type PlanResult = { ok: true; plan: Plan } | { ok: false; reasons: Refusal[] };

/** The summary of the checkpoint that a step runs; null when none could be opened. */
export type Summaries = (step: string) => CheckpointSummary | null;

/**
 * @param summaries of the checkpoints of the steps that need one
 * @param device what the engine runs on, or null when it is not known yet (then the size of tensors is not judged)
 * @param settled parameters by step that an earlier attempt at this operation ran with; they come before all others
 */
export function plan(
  operation: Operation,
  catalogue: Catalogue,
  summaries: Summaries,
  device: DeviceReport | null,
  settled: ResumePoint['parameters'] = {},
): PlanResult {
  const course = courseFor(operation, catalogue);
  if (course instanceof StudioError) {
    return { ok: false, reasons: [{ code: course.code, message: course.message }] };
  }
  const config = catalogue.configs[operation.config];
  const reasons: Refusal[] = [];
  const refuse = (code: ErrorCode, message: string) => {
    // Two steps may be at odds with the same field.
    if (!reasons.some((reason) => reason.message === message)) {
      reasons.push({ code, message });
    }
  };

  const fields = fieldsOf(course);
  const unknown = Object.keys(operation.parameters).find((name) => !fields.has(name));
  if (unknown !== undefined) {
    refuse(
      'invalid_operation',
      `The parameter object has an unknown field "${unknown}"; remove it or check its spelling.`,
    );
  }

  const steps: PlannedStep[] = [];
  for (const step of stepsToRun(course, operation)) {
    const given = own(operation.given ?? {}, step.id) ?? null;
    const summary = given === null && step.chunk.meta.needs.checkpoint ? summaries(step.id) : null;
    if (given === null) {
      judgeCheckpoint(step, config.id, summary, device, refuse);
    }
    const kind = step === course.main ? operation.operation : step.chunk.meta.operations[0];
    const planned = {
      id: step.id,
      chunk: step.chunk.meta.id,
      operation: kind,
      wired: wiredOf(step),
      given,
      checkpoint: summary?.ref ?? null,
      language: languageOf(step, operation),
    };
    if (given !== null) {
      steps.push({ ...planned, parameters: {} });
      continue;
    }
    if (step.chunk.meta.needs.language && planned.language === null) {
      refuse(
        'checkpoint_incomplete',
        `No ${step.chunk.meta.needs.language === 'speech' ? 'voice' : 'language model'} is chosen for the step "${step.id}"; pick one first.`,
      );
    }
    try {
      const open = openEntries(step);
      const known = (values: unknown) =>
        Object.fromEntries(Object.entries((values ?? {}) as Record<string, unknown>).filter(([name]) => name in open));
      const configured = valuesOf(config);
      // Unset values fall back from the operation to the checkpoint's own habit, then to the config, then to the chunk.
      const values = {
        ...known(configured),
        ...known(own(configured, step.id)),
        ...known(habits(summary)),
        ...known(operation.parameters),
        ...valuesForStep(operation, step, course),
        ...wiredValues(step, operation),
        // A resume point of an earlier version goes by the chunk.
        ...(own(settled, step.id) ?? own(settled, step.chunk.meta.id)),
      };
      const placeholders = Object.fromEntries(
        Object.entries(planned.wired).map(([name, { step: from, output }]) => [
          name,
          placeholder(course, from, output),
        ]),
      );
      const input = parse(
        step.chunk.parameters,
        { ...values, ...placeholders, operation: kind },
        'The parameter object',
      ) as Record<string, unknown>;
      const parameters = Object.fromEntries(Object.entries(input).filter(([name]) => !(name in placeholders)));
      steps.push({ ...planned, parameters });
      const { weights } = parameters;
      if (summary && isVariant(weights) && !summary.variants.includes(weights)) {
        refuse(
          'invalid_operation',
          `"${summary.name}" cannot be run with weights of the kind "${weights}", only ${summary.variants.join(', ')}; leave weights at auto.`,
        );
      }
    } catch (error) {
      const refusal = StudioError.from(error);
      refuse(refusal.code, refusal.message);
    }
  }

  if (reasons.length > 0) {
    return { ok: false, reasons };
  }
  const checkpoint = course.main.chunk.meta.needs.checkpoint ? summaries(course.main.id) : null;
  return {
    ok: true,
    plan: {
      operation,
      config: config.id,
      pipeline: config.pipeline,
      steps,
      checkpoint: checkpoint?.ref ?? '',
      variant: checkpoint?.variants[0] ?? 'full',
      memoryBytes: checkpoint?.memoryBytes ?? 0,
      downloadBytes: null,
      seconds: null,
      notices: [],
    },
  };
}

/** The step that runs the plan's checkpoint; undefined where it needs none. */
export function checkpointStep({ steps, checkpoint }: Plan): PlannedStep | undefined {
  return steps.find((step) => step.checkpoint !== null && step.checkpoint === checkpoint);
}

/** What an operation waits for and uses, known without opening anything. */
export interface Requirements {
  gpu: boolean;
  /** Refs of the checkpoints and language models of its steps, as far as the operation names them. */
  refs: string[];
  /** Whether a step runs a checkpoint that the operation does not name. */
  lacksCheckpoint: boolean;
  /** Whether a step runs a checkpoint, and with it the graph engine. */
  graphs: boolean;
  /** Steps that run a language model, and what they want of it. */
  languageSteps: { id: string; service: 'text' | 'speech' }[];
  /** Whether a step runs on another machine. */
  remote: boolean;
}

/**
 * What an operation needs, from the catalogue alone.
 * @throws StudioError `invalid_operation` for a config or a kind of operation that does not exist
 */
export function requirementsOf(operation: Operation, catalogue: Catalogue): Requirements {
  const course = courseFor(operation, catalogue);
  if (course instanceof StudioError) {
    throw course;
  }
  const run = stepsToRun(course, operation).filter(({ id }) => own(operation.given ?? {}, id) === undefined);
  const refs = run.flatMap((step) => [
    ...(step.chunk.meta.needs.checkpoint ? [checkpointOf(step.id, operation)] : []),
    ...(step.chunk.meta.needs.language ? [languageOf(step, operation)] : []),
  ]);
  return {
    gpu: run.some(({ chunk }) => chunk.meta.needs.gpu),
    refs: [...new Set(refs.filter((ref) => ref !== null))],
    lacksCheckpoint: run.some(
      ({ id, chunk }) => chunk.meta.needs.checkpoint !== undefined && checkpointOf(id, operation) === null,
    ),
    graphs: run.some(({ chunk }) => chunk.meta.needs.checkpoint !== undefined),
    languageSteps: run.flatMap(({ id, chunk }) =>
      chunk.meta.needs.language ? [{ id, service: chunk.meta.needs.language }] : [],
    ),
    remote: run.some(({ chunk }) => chunk.meta.needs.remote !== undefined),
  };
}

/** The checkpoint that an operation names for a step; null = none. */
export function checkpointOf(step: string, { checkpoint, checkpoints }: Operation): string | null {
  return own(checkpoints ?? {}, step) ?? checkpoint;
}

/** The config's steps, or why this operation cannot be one of it. */
function courseFor(operation: Operation, catalogue: Catalogue): Course | StudioError {
  const invalid = (message: string) => new StudioError('invalid_operation', message);
  const config = own(catalogue.configs, operation.config);
  if (!config) {
    const known = Object.keys(catalogue.configs).join(', ');
    return invalid(`There is no config "${operation.config}"; the configs here are: ${known}.`);
  }
  const course = courseOf(config, catalogue);
  if (typeof course === 'string') {
    return new StudioError('internal', course);
  }
  if (!course.operations.includes(operation.operation)) {
    const kinds = operationKinds(catalogue);
    return invalid(
      kinds.includes(operation.operation)
        ? `The config "${config.id}" cannot do ${operation.operation}; it does ${course.operations.join(', ')}.`
        : `operation must be one of ${kinds.join(', ')}; it is "${operation.operation}".`,
    );
  }
  const ids = course.steps.map(({ id }) => id);
  const named = [...Object.keys(operation.given ?? {}), ...Object.keys(operation.checkpoints ?? {})];
  const stranger = [...named, ...(operation.until === undefined ? [] : [operation.until])].find(
    (id) => !ids.includes(id),
  );
  if (stranger !== undefined) {
    return invalid(`The config "${config.id}" has no step "${stranger}"; its steps are: ${ids.join(', ')}.`);
  }
  for (const { id, chunk } of course.steps) {
    const given = own(operation.given ?? {}, id);
    const { outputs } = chunk.meta;
    const wrong =
      given && [...Object.keys(outputs), ...Object.keys(given)].find((name) => !(name in given && name in outputs));
    if (wrong !== undefined) {
      return invalid(`given must hold exactly what the step "${id}" gives: ${Object.keys(outputs).join(', ')}.`);
    }
  }
  return course;
}

/** Every kind of operation that a chunk declares. */
export function operationKinds({ chunks }: Catalogue): string[] {
  return [...new Set(Object.values(chunks).flatMap(({ meta }) => meta.operations))];
}

/** Those up to the last one that is asked for, without those that are not given and whose outputs only given steps would take. */
function stepsToRun({ steps }: Course, { until, given = {} }: Operation): Step[] {
  const last = until === undefined ? steps.length - 1 : steps.findIndex(({ id }) => id === until);
  const wanted = new Set([steps[last].id]);
  for (const step of steps.slice(0, last + 1).reverse()) {
    if (wanted.has(step.id) && own(given, step.id) === undefined) {
      Object.values(wiredOf(step)).forEach((wire) => wanted.add(wire.step));
    }
  }
  const isSource = (step: Step) =>
    !steps.some((other) => Object.values(wiredOf(other)).some((wire) => wire.step === step.id));
  const isGiven = ({ id }: Step) => own(given, id) !== undefined;
  return steps.slice(0, last + 1).filter((step) => wanted.has(step.id) || isSource(step) || isGiven(step));
}

function judgeCheckpoint(
  { id, chunk }: Step,
  config: string,
  summary: CheckpointSummary | null,
  device: DeviceReport | null,
  refuse: (code: ErrorCode, message: string) => void,
): void {
  const classes = chunk.meta.needs.checkpoint;
  if (!classes) {
    return;
  }
  if (!summary) {
    refuse('checkpoint_incomplete', 'No checkpoint is chosen; pick one first.');
    return;
  }
  if (!classes.includes(summary.pipelineClass)) {
    refuse(
      'checkpoint_unsupported',
      `"${summary.name}" is a ${summary.pipelineClass}, which the step "${id}" of the config "${config}" cannot run; choose a checkpoint of the family ${classes.join(' or ')}.`,
    );
  }
  if (device?.limits) {
    const biggest = summary.largestTensorBytes;
    const limit = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize);
    if (biggest > limit) {
      refuse(
        'does_not_fit',
        `"${summary.name}" has a tensor of ${mebibytes(biggest)} MiB, but this GPU takes at most ${mebibytes(limit)} MiB in one buffer; choose a smaller checkpoint, or run it with ?backend=wasm.`,
      );
    }
  }
}

function languageOf({ id, chunk }: Step, { checkpoints }: Operation): string | null {
  return chunk.meta.needs.language ? (own(checkpoints ?? {}, id) ?? null) : null;
}

/** Parameters that other steps give. */
function wiredOf({ wires }: Step): PlannedStep['wired'] {
  return Object.fromEntries(
    Object.entries(wires).flatMap(([name, wire]) =>
      wire.from === 'step' ? [[name, { step: wire.step, output: wire.output }]] : [],
    ),
  );
}

/** Parameters that the pipeline's inputs and the config give. */
function wiredValues({ wires }: Step, { parameters }: Operation): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(wires).flatMap(([name, wire]): [string, unknown][] => {
      if (wire.from === 'value') {
        return wire.value === undefined ? [] : [[name, wire.value]];
      }
      return wire.from === 'input' && Object.hasOwn(parameters, wire.name) ? [[name, parameters[wire.name]]] : [];
    }),
  );
}

/** What the operation says for this step alone. @throws StudioError `invalid_operation` */
function valuesForStep({ parameters }: Operation, step: Step, { steps }: Course): Record<string, unknown> {
  const values = steps.length > 1 ? own(parameters, step.id) : undefined;
  if (values === undefined) {
    return {};
  }
  if (typeof values !== 'object' || values === null || Array.isArray(values)) {
    throw new StudioError('invalid_operation', `${step.id} must be an object of values for the step "${step.id}".`);
  }
  const entries = entriesOf(step.chunk);
  const unknown = Object.keys(values).find((name) => !(name in entries));
  if (unknown !== undefined) {
    throw new StudioError(
      'invalid_operation',
      `The parameter object has an unknown field "${step.id}.${unknown}"; remove it or check its spelling.`,
    );
  }
  return values as Record<string, unknown>;
}

/** Stands for what an earlier step will give, so that everything else can be judged before anything runs. */
function placeholder({ steps }: Course, step: string, output: string): unknown {
  const { medium, many } = steps.find(({ id }) => id === step)?.chunk.meta.outputs[output] ?? { medium: 'text' };
  const one = isWritten(medium) ? 'x' : `data:${medium}/x;base64,`;
  return many ? [one] : one;
}

/** What the checkpoint itself says of how it is best run. */
function habits(checkpoint: CheckpointSummary | null): Record<string, unknown> {
  const { steps, guidance_scale } = checkpoint?.defaults ?? {};
  return Object.fromEntries(Object.entries({ steps, guidance_scale }).filter(([, value]) => value !== undefined));
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / 2 ** 20);
}
