/**
 * Planning: which steps to run with which values on which checkpoints, or typed reasons why not. Pure: the page gets the same answer
 * before a download as the worker before a run. `fit.ts` decides whether it fits the device.
 */
import { own } from './catalogue.ts';
import type { Catalogue } from './catalogue.ts';
import { passedLimits } from './checkpoint_limits.ts';
import type { ErrorCode } from './errors.ts';
import { StudioError } from './errors.ts';
import { furtherCheckpoints, type FurtherCheckpoint } from './further_checkpoints.ts';
import type { DeviceReport, ResumePoint } from './job.ts';
import { isWritten } from './media.ts';
import { isVariant } from './model.ts';
import type { CheckpointSummary, WeightVariant } from './model.ts';
import type { Operation } from './operation.ts';
import { parse } from './operation.ts';
import { readRemoteModel } from './remote.ts';
import { asAsked, courseOf, entriesOf, fieldsOf, openEntries, valuesOf } from './steps.ts';
import type { Course, Step } from './steps.ts';

/** One step of a plan, with every value settled. */
export interface PlannedStep {
  id: string;
  /** The chunk's id. */
  chunk: string;
  /** The kind of operation it carries out. */
  operation: string;
  parameters: Record<string, unknown>;
  /** Parameters from earlier steps: by name, the step and its output. They are not in `parameters`. */
  wired: Record<string, { step: string; output: string }>;
  /** Its outputs, if the operation brings them; then it is not run. */
  given: Record<string, unknown> | null;
  /** The ref of the checkpoint it runs; null if its chunk needs none. */
  checkpoint: string | null;
  /** The ref of the language model it runs, here or on a server (`readRemoteModel`); null if its chunk needs none. */
  language: string | null;
}

export interface Plan {
  operation: Operation;
  config: string;
  pipeline: string;
  /** The steps that are run or given, in order. */
  steps: PlannedStep[];
  /** The id of the config's main step. */
  main: string;
  /** The main step's checkpoint; empty if it needs none. */
  checkpoint: string;
  /** How to run its weights; `full` until `fit` chooses. */
  variant: WeightVariant;
  /** Peak bytes on the device; before `fit`, its weights in full precision. */
  memoryBytes: number;
  /** Bytes to download before it can run; null before `fit`. */
  downloadBytes: number | null;
  /** Excluding loading; null if nothing was measured yet. */
  seconds: number | null;
  /** Choices made for the person, as whole sentences. */
  notices: string[];
}

export interface Refusal {
  code: ErrorCode;
  message: string;
}

export type PlanResult = { ok: true; plan: Plan } | { ok: false; reasons: Refusal[] };

/**
 * The summary of a step's checkpoint; null if none could be opened, undefined if nobody has looked, in which case it is not judged.
 * @param further the ref of one that it uses beside its own; absent = its own
 */
export type Summaries = (step: string, further?: string) => CheckpointSummary | null | undefined;

/**
 * @param summaries of the steps' checkpoints
 * @param device what the engine runs on; null if unknown, in which case tensor sizes are not judged
 * @param settled parameters by step of an earlier attempt at this operation; they override all others
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
    // Two steps may complain about the same field.
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
    if (given === null && summary !== undefined && step.chunk.meta.needs.checkpoint) {
      judgeCheckpoint(
        `the step "${step.id}" of the config "${config.id}"`,
        step.chunk.meta.needs.checkpoint,
        summary,
        device,
        refuse,
      );
    }
    const kind = step === course.main ? operation.operation : step.chunk.meta.operations[0];
    const planned = {
      id: step.id,
      chunk: step.chunk.meta.id,
      operation: kind,
      wired: wiredOf(step),
      given,
      checkpoint: summary === undefined ? checkpointOf(step, operation) : (summary?.ref ?? null),
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
      // A value the operation leaves unset comes from the checkpoint's defaults, then the config, then the chunk.
      const values = {
        ...known(configured),
        ...known(own(configured, step.id)),
        ...known(habits(summary ?? null)),
        ...known(operation.parameters),
        ...valuesForStep(operation, step, course),
        ...wiredValues(step, operation),
        // Earlier versions keyed resume points by chunk.
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
      for (const { parameter, ref, classes } of furtherCheckpoints(step.chunk.meta, parameters)) {
        const further = summaries(step.id, ref);
        if (further !== undefined) {
          judgeCheckpoint(parameter, classes, further, device, refuse);
        }
      }
      for (const sentence of summary ? passedLimits(summary, parameters) : []) {
        refuse('invalid_operation', sentence);
      }
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
      main: course.main.id,
      checkpoint: checkpoint?.ref ?? '',
      variant: checkpoint?.variants[0] ?? 'full',
      memoryBytes: checkpoint?.memoryBytes ?? 0,
      downloadBytes: null,
      seconds: null,
      notices: [],
    },
  };
}

/** The step that runs the plan's checkpoint; undefined if it needs none. */
export function checkpointStep({ steps, checkpoint }: Plan): PlannedStep | undefined {
  return steps.find((step) => step.checkpoint !== null && step.checkpoint === checkpoint);
}

/** What an operation needs, known without opening anything. */
export interface Requirements {
  gpu: boolean;
  /** Refs of the checkpoints and language models that the operation names. */
  refs: string[];
  /** The classes of checkpoint for a step that needs one the operation does not name; null if it names all. */
  lacking: readonly string[] | null;
  /** Whether a step runs a checkpoint, and so the graph engine. */
  graphs: boolean;
  /** The steps that run a language model, here or elsewhere, and what they need it to do. */
  languageSteps: { id: string; service: 'text' | 'speech' }[];
  /** The engines of the steps that run on another machine, by id. */
  engines: string[];
  /** Whether it may be handed to its engine before a server is free; see `Needs`. */
  standsBy: boolean;
}

/**
 * What an operation needs, according to the catalogue alone.
 * @throws StudioError `invalid_operation` for a config or a kind of operation that does not exist
 */
export function requirementsOf(operation: Operation, catalogue: Catalogue): Requirements {
  const course = courseFor(operation, catalogue);
  if (course instanceof StudioError) {
    throw course;
  }
  const run = stepsToRun(course, operation).filter(({ id }) => own(operation.given ?? {}, id) === undefined);
  const writer = (step: Step) =>
    step.chunk.meta.needs.language === 'text' ? readRemoteModel(languageOf(step, operation) ?? '') : null;
  const onServer = (step: Step) => writer(step) !== null;
  const refs = run.flatMap((step) => [
    ...(step.chunk.meta.needs.checkpoint ? [checkpointOf(step, operation)] : []),
    ...furtherOf(step, operation, catalogue).map(({ ref }) => ref),
    ...(step.chunk.meta.needs.language && !onServer(step) ? [languageOf(step, operation)] : []),
  ]);
  return {
    gpu: run.some((step) => step.chunk.meta.needs.gpu && !onServer(step)),
    refs: [...new Set(refs.filter((ref) => ref !== null))],
    lacking:
      run.find((step) => step.chunk.meta.needs.checkpoint && checkpointOf(step, operation) === null)?.chunk.meta.needs
        .checkpoint ?? null,
    graphs: run.some(({ chunk }) => chunk.meta.needs.checkpoint !== undefined),
    languageSteps: run.flatMap(({ id, chunk }) =>
      chunk.meta.needs.language ? [{ id, service: chunk.meta.needs.language }] : [],
    ),
    engines: [
      ...new Set(
        run.flatMap((step) => [step.chunk.meta.needs.remote, writer(step)?.engine].filter((id) => id !== undefined)),
      ),
    ],
    standsBy: run.at(-1)?.chunk.meta.needs.standsBy === true,
  };
}

/** The checkpoint an operation names for a step; null = none. An optional step only runs one named for it. */
export function checkpointOf({ id, isOptional }: Step, { checkpoint, checkpoints }: Operation): string | null {
  return own(checkpoints ?? {}, id) ?? (isOptional ? null : checkpoint);
}

/** What a step uses beside its own checkpoint. Values are as the operation and the config have them, not yet parsed. */
export function furtherOf(
  { id, chunk }: Step,
  { config, parameters }: Operation,
  { configs }: Catalogue,
): FurtherCheckpoint[] {
  const configured = valuesOf(configs[config]);
  const layers = [configured, own(configured, id), parameters, own(parameters, id)];
  const isRecord = (layer: unknown): layer is Record<string, unknown> => typeof layer === 'object' && layer !== null;
  return furtherCheckpoints(chunk.meta, Object.assign({}, ...layers.filter(isRecord)) as Record<string, unknown>);
}

/** The config's steps, or why the operation does not fit the config. */
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
  const asked = asAsked(course, named);
  if (operation.until !== undefined && !asked.steps.some(({ id }) => id === operation.until)) {
    return invalid(
      `The step "${operation.until}" runs only with a checkpoint of its own; name one for it in checkpoints, or leave until out.`,
    );
  }
  return asked;
}

/** Every kind of operation that a chunk declares. */
export function operationKinds({ chunks }: Catalogue): string[] {
  return [...new Set(Object.values(chunks).flatMap(({ meta }) => meta.operations))];
}

/** The steps up to the last one asked for, except those whose outputs only given steps would use. */
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

/** @param user what is to run it, for people */
function judgeCheckpoint(
  user: string,
  classes: readonly string[],
  summary: CheckpointSummary | null,
  device: DeviceReport | null,
  refuse: (code: ErrorCode, message: string) => void,
): void {
  if (!summary) {
    refuse('checkpoint_incomplete', 'No checkpoint is chosen; pick one first.');
    return;
  }
  if (!classes.includes(summary.pipelineClass)) {
    refuse(
      'checkpoint_unsupported',
      `"${summary.name}" is a ${summary.pipelineClass}, which ${user} cannot run; choose a checkpoint of the family ${classes.join(' or ')}.`,
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

/** Parameters that come from other steps. */
function wiredOf({ wires }: Step): PlannedStep['wired'] {
  return Object.fromEntries(
    Object.entries(wires).flatMap(([name, wire]) =>
      wire.from === 'step' ? [[name, { step: wire.step, output: wire.output }]] : [],
    ),
  );
}

/** Parameters that come from the pipeline's inputs and the config. */
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

/** Values the operation gives to this step alone. @throws StudioError `invalid_operation` */
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

/** Stands in for an earlier step's output, so that everything else can be validated before anything runs. */
function placeholder({ steps }: Course, step: string, output: string): unknown {
  const { medium, many } = steps.find(({ id }) => id === step)?.chunk.meta.outputs[output] ?? { medium: 'text' };
  const one = isWritten(medium) ? 'x' : `data:${medium}/x;base64,`;
  return many ? [one] : one;
}

/** The checkpoint's own defaults. */
function habits(checkpoint: CheckpointSummary | null): Record<string, unknown> {
  const { steps, guidance_scale } = checkpoint?.defaults ?? {};
  return Object.fromEntries(Object.entries({ steps, guidance_scale }).filter(([, value]) => value !== undefined));
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / 2 ** 20);
}
