/** SwarmUI: JSON with `sui_image_params`, in PNG `parameters`, in EXIF UserComment, in older files in EXIF Model. */
import { ExifTag } from '../exif.ts';
import { isObject, numberOf, own, readJsonObject, textOf } from '../json.ts';
import { Findings, type Tool } from '../reading.ts';

const NAME = 'SwarmUI';

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts, exif }) {
    const text = [texts.get('parameters'), exif.get(ExifTag.userComment), exif.get(ExifTag.model)].find((one) =>
      one?.includes('sui_image_params'),
    );
    const json = readJsonObject(text);
    const given = json?.sui_image_params;
    if (!json || !isObject(given)) {
      return null;
    }
    const findings = new Findings(NAME)
      .prompt(given.prompt)
      .negativePrompt(given.negativeprompt)
      .steps(given.steps)
      .guidance(given.cfgscale)
      .seed(given.seed)
      .size(given.width, given.height)
      .sampler(given.sampler ?? given.comfyuisampler, given.scheduler ?? given.comfyuischeduler)
      .checkpoint(given.model, hashOf(json.sui_models));
    // Each a list, or a text with commas in older files.
    const loras = listOf(given.loras);
    const weights = listOf(given.loraweights);
    loras.forEach((lora, i) => findings.lora(lora, weights[i]));
    if (given.initimage !== undefined || given.initimagecreativity !== undefined) {
      findings.strength(given.initimagecreativity).lost('the picture it started from');
    }
    return findings
      .lostIf(given.maskimage, 'the mask')
      .lostIf(given.controlnetmodel, 'the ControlNet')
      .lostIf(given.refinermodel ?? given.refinermethod, 'the refiner')
      .lostIf(given.variationseed, 'the variation seed')
      .lostIf(given.vae === 'Automatic' ? null : given.vae, `the VAE ${textOf(given.vae) ?? ''}`)
      .lostIf((numberOf(given.clipstopatlayer) ?? -1) < -1, 'clip skip')
      .lostIf(given.seamlesstileable, 'seamless tiling')
      .reading();
  },
};

function hashOf(models: unknown): unknown {
  const main: unknown = Array.isArray(models) ? models.find((model) => own(model, 'param') === 'model') : undefined;
  return textOf(own(main, 'hash'))?.replace(/^0x/, '');
}

function listOf(value: unknown): unknown[] {
  return (Array.isArray(value) ? value : (textOf(value)?.split(',') ?? [])).slice(0, 40);
}
