/** What Stable Diffusion XL can be told of the picture, as fields made of the schema. Fetched with the settings. */
import * as v from 'valibot';
import * as parameter from '../../core/parameters.ts';
import { describeField } from '../fields/description.ts';
import type { ControlField } from '../fields/field.svelte.ts';
import { ofLanguage, said } from '../messages/messages.svelte.ts';
import { Entry } from './entry.svelte.ts';
import type { Form } from './form.svelte.ts';

/** Each with what counts where nobody chose. */
const SIZES: Readonly<Record<string, (form: Form) => string>> = {
  original_width: (form) => form.width.text,
  original_height: (form) => form.height.text,
  crop_left: () => '0',
  crop_top: () => '0',
  target_width: (form) => form.width.text,
  target_height: (form) => form.height.text,
};

/** None for a checkpoint that is told no sizes. */
export function sizeFields(form: Form): ControlField[] {
  return form.suggestions.takesSizes ? Object.keys(SIZES).map((name) => fieldOf(form, name)) : [];
}

function fieldOf(form: Form, name: string): ControlField {
  const schema = parameter.pixels(name, name.startsWith('crop') ? 0 : 1);
  const { label, help } = describeField(name, schema);
  const text = ofLanguage(label);
  return {
    label: text,
    help: help ? ofLanguage(help) : '',
    entry: new Entry(() => text, {
      read: () => form.options.sizes[name] ?? null,
      write: (size) => {
        const others = Object.fromEntries(Object.entries(form.options.sizes).filter(([other]) => other !== name));
        form.options.sizes = size === null ? others : { ...others, [name]: size };
      },
      suggestion: () => SIZES[name](form),
      check: (entry) => {
        const result = v.safeParse(schema, entry.value);
        return result.success ? null : said(result.issues[0].message.replace(/^\S+/, text));
      },
    }),
  };
}
