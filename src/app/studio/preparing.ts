/** While somebody types, the engine gets ready for what the form says, so that the first picture comes as quickly as the next. Loaded by the first key. */
import type { Studio } from './studio.svelte.ts';

/** Nobody has typed for so long, in milliseconds: settings often change together. */
const PAUSE = 700;
/** Below this share a battery is for the pictures that are really wanted. */
const LOW_BATTERY = 0.3;

let pause: ReturnType<typeof setTimeout> | undefined;
/** What was prepared last. */
let last = '';

interface Thrift {
  connection?: { saveData?: boolean };
  getBattery?: () => Promise<{ charging: boolean; level: number }>;
}

/** Somebody has pressed a key in the studio. */
export function typing(studio: Studio): void {
  clearTimeout(pause);
  pause = setTimeout(() => void prepare(studio), PAUSE);
}

async function prepare(studio: Studio): Promise<void> {
  const { form, making, opened, running, phase, obstacle } = studio;
  const { checkpoint, config } = opened;
  if (
    phase !== 'ready' ||
    obstacle !== null ||
    running ||
    making.form ||
    !checkpoint ||
    !config ||
    (await isSaving())
  ) {
    return;
  }
  const loras = checkpoint.takesLoras ? studio.loras.uses : [];
  const { checkpoints, scale } = form.upscaling;
  const { guides, picture } = studio;
  const tile =
    picture.loaded && guides?.tiles.isUsed(!picture.mask.isEmpty) === true ? guides.tiles.size.value : undefined;
  const asked = {
    operation: 'image_generation',
    config: config.id,
    checkpoint: checkpoint.ref,
    ...(checkpoints ? { checkpoints } : {}),
    // What is brought to the device depends on these alone.
    parameters: {
      prompt: '',
      ...(scale === undefined ? {} : { scale }),
      width: tile ?? form.width.value,
      height: tile ?? form.height.value,
      steps: form.steps.value,
      guidance_scale: form.guidance.value,
      batch_size: form.options.count,
      ...(loras.length > 0 ? { loras } : {}),
    },
  };
  const operation = guides?.applyTo(asked, checkpoint, false) ?? asked;
  const wanted = JSON.stringify(operation);
  if (wanted !== last) {
    last = wanted;
    // What stands against it is said when a picture is asked for.
    await globalThis.darkroom?.prepare(operation).catch(() => (last = ''));
  }
}

/** Whether the person, or the battery, asks to do only what is needed. */
export async function isSaving(device: Thrift = navigator as Thrift): Promise<boolean> {
  if (device.connection?.saveData) {
    return true;
  }
  const battery = await device.getBattery?.().catch(() => undefined);
  return battery !== undefined && !battery.charging && battery.level < LOW_BATTERY;
}
