/** LoRAs in prompts, as AUTOMATIC1111 and sd-webui-lora-block-weight write them. Loaded where prompts are read; the page's start needs none of it. */
import { StudioError } from './errors.ts';
import { GREATEST_LORA_WEIGHT, areBlocks, type LoraUse } from './loras.ts';

const TAG = /<(?:lora|lyco):([^<>]*)>/gi;
/** Tags, by their numbers, while brackets around them are read. */
const MARK = /\uFDD0(\d+)\uFDD1/g;
/** `[now:later:0.5]`, `[later:0.5]` and `[now::0.5]`, without others inside. */
const SCHEDULED = /\[([^[\]:]*)(?::([^[\]:]*))?:\s*(\d+\.?\d*|\.\d+)\s*\]/g;

/**
 * Removes the tags `<lora:name>`, `<lora:name:weight>` and, like AUTOMATIC1111, `<lora:name:text encoder's weight:UNet's weight>` from a
 * prompt, leaving everything else as it is. Named parts are those of AUTOMATIC1111 and sd-webui-lora-block-weight: `te`, `unet`, `lbw`,
 * `start`, `stop` and `step`. A tag in brackets that change the prompt on the way, such as `[<lora:name:1>::0.5]`, counts in those steps; brackets
 * without other words go with it.
 * @param steps of the whole run; a number without a decimal point is one of them
 * @throws StudioError `invalid_operation` for a tag that cannot be read
 */
export function takeLoraTags(prompt: string, steps = 1): { words: string; loras: LoraUse[] } {
  const loras: LoraUse[] = [];
  let words = prompt.replace(TAG, (tag, inner: string) => {
    loras.push(readTag(tag, inner, steps));
    return `\uFDD0${loras.length - 1}\uFDD1`;
  });
  const limit = (text: string, change: (lora: LoraUse) => Partial<LoraUse>) => {
    for (const [, place] of text.matchAll(MARK)) {
      Object.assign(loras[Number(place)], change(loras[Number(place)]));
    }
  };
  for (let before = ''; before !== words;) {
    before = words;
    words = words.replace(SCHEDULED, (bracket, first: string, second: string | undefined, when: string) => {
      const marks = bracket.match(MARK) ?? [];
      const at = shareOf(when, steps);
      const [now, later] = second === undefined ? ['', first] : [first, second];
      limit(now, ({ end = 1 }) => ({ end: Math.min(end, at) }));
      limit(later, ({ start = 0 }) => ({ start: Math.max(start, at) }));
      // What was read stays findable for brackets around it, but not to be read again.
      const isTagsAlone = marks.length > 0 && `${first}${second ?? ''}`.replace(MARK, '').trim() === '';
      return isTagsAlone ? marks.join('') : bracket.replace(MARK, '');
    });
  }
  return { words: words.replace(MARK, ''), loras: loras.filter(({ start = 0, end = 1 }) => start < end) };
}

const NAMED_PARTS = /^(te|unet|lbw|start|stop|step)=(.*)$/i;

function readTag(tag: string, inner: string, steps: number): LoraUse {
  const [name, ...parts] = inner.split(':').map((part) => part.trim());
  const shown = tag.slice(0, 100);
  const named: Partial<Record<string, string>> = {};
  const plain: string[] = [];
  for (const part of parts) {
    const [, key, value] = NAMED_PARTS.exec(part) ?? [];
    if (key) {
      named[key.toLowerCase()] = value.trim();
    } else if (part.includes(',') && !part.includes('@')) {
      named.lbw = part;
    } else {
      plain.push(part);
    }
  }
  const [te = '1', unet = te] = [named.te ?? plain.at(0), named.unet ?? plain.at(1)];
  const weights = [te, unet].map((one) => (one === '' ? NaN : Number(one)));
  if (!name || plain.length > 2 || !weights.every((one) => Math.abs(one) <= GREATEST_LORA_WEIGHT)) {
    throw refused(
      parts.some((part) => part.includes('@'))
        ? `The prompt has "${shown}", whose weight changes from step to step, for which the checkpoint would be loaded anew each time; give it one weight, or a part of the steps, as in [<lora:name:0.8>::0.5].`
        : `The prompt has "${shown}", which is not a LoRA's name and one weight from -${GREATEST_LORA_WEIGHT} to ${GREATEST_LORA_WEIGHT}; write it as <lora:name:0.8>.`,
    );
  }
  const [from, until] = named.step?.split('-') ?? [named.start, named.stop];
  const [start = 0, end = 1] = [from, until].map((when) => (when === undefined ? undefined : shareOf(when, steps)));
  if (!(start < end)) {
    throw refused(
      `The prompt has "${shown}", which ends before it begins; write its part of the steps as start=0.2:stop=0.8.`,
    );
  }
  const blocks = named.lbw?.split(',').map((one) => (one.trim() === '' ? NaN : Number(one)));
  if (blocks && !areBlocks(blocks)) {
    throw refused(
      `The prompt has "${shown}", whose weights of blocks are not 12, 17, 20 or 26 numbers from -${GREATEST_LORA_WEIGHT} to ${GREATEST_LORA_WEIGHT}; names of presets are not known here, so write the numbers.`,
    );
  }
  const [first, weight] = weights;
  return {
    lora: name,
    weight,
    ...(first !== weight && { text_weight: first }),
    ...(blocks && { blocks }),
    ...(start > 0 && { start }),
    ...(end < 1 && { end }),
  };
}

/** What named parts of a tag say by block and by step; null where they cannot be read, or want the number of steps. */
export function loraParts(parts: readonly string[]): Pick<LoraUse, 'blocks' | 'start' | 'end'> | null {
  try {
    const { blocks, start, end } = readTag('', ['x', ...parts].join(':'), NaN);
    return { ...(blocks && { blocks }), ...(start !== undefined && { start }), ...(end !== undefined && { end }) };
  } catch {
    return null;
  }
}

function refused(sentence: string): StudioError {
  return new StudioError('invalid_operation', sentence);
}

/** A number with a decimal point is a share of the steps, any other a step. NaN unless it is a number of at least 0. */
function shareOf(when: string, steps: number): number {
  const number = /^\s*(\d+\.?\d*|\.\d+)\s*$/.test(when) ? Number(when) : NaN;
  return Math.min(1, when.includes('.') ? number : number / steps);
}

/** The prompt without its tags, for when its LoRAs are known from elsewhere. */
export function withoutLoraTags(prompt: string): string {
  try {
    return takeLoraTags(prompt).words.trim();
  } catch {
    return prompt.replace(TAG, '').trim();
  }
}

/** The tags of these LoRAs, for programs that know LoRAs only in prompts. */
export function loraTags(loras: readonly (Omit<LoraUse, 'lora'> & { name: string })[]): string {
  return loras
    .map(({ name, weight, blocks, start = 0, end = 1 }) => {
      const parts = [
        ...(blocks ? [`lbw=${blocks.join(',')}`] : []),
        ...(start > 0 ? [`start=${start}`] : []),
        ...(end < 1 ? [`stop=${end}`] : []),
      ];
      return `<lora:${[name.replace(/[<>:,]/g, ''), weight, ...parts].join(':')}>`;
    })
    .join(' ');
}
