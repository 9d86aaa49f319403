/** The controls that fields are shown with: `<Name>Field.svelte` beside this file. The folder is the registry. */
import type { Component } from 'svelte';
import type { Studio } from '../studio/studio.svelte.ts';
import type { Field } from './field.svelte.ts';

type Control = Component<{ field: Field; studio: Studio }>;

const files = import.meta.glob<Control>('./*Field.svelte', { eager: true, import: 'default' });

/** By the name in a field's metadata, such as `long_text`; unknown ones become text. */
export function controlNamed(name: string): Control {
  const file = name.replace(/(^|_)([a-z])/g, (_, _gap, letter: string) => letter.toUpperCase());
  return files[`./${file}Field.svelte`] ?? files['./TextField.svelte'];
}
