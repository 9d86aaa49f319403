/** Krita AI Diffusion: an infotext in PNG iTXt whose checkpoint has the hash "unknown"; samplers carry the name of a preset. */
import { parseInfotext } from '../infotext.ts';
import { readingOf } from '../infotext_reading.ts';
import type { Tool } from '../reading.ts';

const NAME = 'Krita AI Diffusion';

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts }) {
    const infotext = parseInfotext(texts.get('parameters') ?? '');
    const { fields } = infotext;
    if (fields.get('Model hash') !== 'unknown' || fields.has('Version')) {
      return null;
    }
    fields.delete('Model hash');
    // "Default - DPM++ 2M"
    fields.set('Sampler', (fields.get('Sampler') ?? '').replace(/^.* - /, ''));
    return readingOf(infotext, NAME);
  },
};
