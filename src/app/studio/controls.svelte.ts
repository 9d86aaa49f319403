/** The ControlNets of the form: each with its control picture and how much it counts. */
import * as v from 'valibot';
import { CONTROL_KINDS, DETECTORS, type ControlKind, type Detector } from '../../core/controlnets.ts';
import type { CheckpointSummary } from '../../core/model.ts';
import * as parameter from '../../core/parameters.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { Library } from '../library/library.svelte.ts';
import { said, t } from '../messages/messages.svelte.ts';
import { AdditionUse, AdditionUses, numberEntry, putGiven, type AdditionChoice } from './addition_uses.svelte.ts';

/** One ControlNet that leads the picture. */
export class Control extends AdditionUse {
  detector = $state<Detector>('none');
  /** What the picture shows, for a ControlNet for several kinds; empty for others. */
  kind = $state<ControlKind | ''>('');
  guess = $state(false);
  readonly start = numberEntry(() => t('Starts at'), '0', parameter.share('start'));
  readonly end = numberEntry(() => t('Ends at'), '1', parameter.share('end'));

  constructor() {
    super(1);
  }

  protected override get numbers() {
    return [this.weight, this.start, this.end];
  }

  protected problemOf(choice: AdditionChoice | undefined, areNumbers: boolean): string | null {
    if (!choice) {
      return t('Choose a ControlNet for this picture, or remove it.');
    }
    if (choice.problem !== null) {
      return said(choice.problem);
    }
    if (this.pictures.length === 0) {
      return t('This ControlNet needs a control picture; choose one, or remove it.');
    }
    return areNumbers && this.start.value >= this.end.value ? t('It must start before it ends.') : null;
  }
}

const usesSchema = v.fallback(
  v.array(
    v.object({
      controlnet: v.string(),
      weight: v.fallback(v.number(), 1),
      start: v.fallback(v.number(), 0),
      end: v.fallback(v.number(), 1),
      detector: v.fallback(v.picklist(DETECTORS), 'none'),
      kind: v.fallback(v.picklist([...CONTROL_KINDS, '']), ''),
      guess: v.fallback(v.boolean(), false),
    }),
  ),
  [],
);

export class Controls extends AdditionUses<Control> {
  constructor(client: JobClient, library: Library) {
    super('controlnet', client, library);
  }

  isTaken({ takesControlNets }: CheckpointSummary): boolean {
    return takesControlNets === true;
  }

  protected make(): Control {
    return new Control();
  }

  parameters(): Record<string, unknown> {
    const led = this.list.filter(({ pictures }) => pictures.length > 0);
    return led.length === 0
      ? {}
      : {
          controlnets: led.map(({ ref, weight, start, end, detector, kind, guess }) => ({
            controlnet: ref,
            weight: weight.value,
            start: start.value,
            end: end.value,
            detector,
            ...(kind !== '' && { kind }),
            ...(guess && { guess }),
          })),
          control_images: led.map(({ pictures }) => pictures[0].blob),
        };
  }

  async restore(parameters: Record<string, unknown>, read: (file: string) => Promise<Blob>): Promise<void> {
    this.clear();
    const pictures: unknown[] = Array.isArray(parameters.control_images) ? parameters.control_images : [];
    for (const [place, use] of v.parse(usesSchema, parameters.controlnets).entries()) {
      const control = this.addNamed(use.controlnet);
      control.detector = use.detector;
      control.kind = use.kind;
      control.guess = use.guess;
      for (const name of ['weight', 'start', 'end'] as const) {
        control[name].text = String(use[name]);
      }
      await putGiven(control, pictures[place], read, t('Control picture'));
    }
  }
}
