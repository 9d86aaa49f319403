/** The controls that fields are shown with: `<Name>Field.svelte` beside this file. The folder is the registry. */
import type { Component } from 'svelte';
import type { Field } from './field.svelte.ts';

const files = import.meta.glob<Component<{ field: Field }>>('./*Field.svelte', { eager: true, import: 'default' });

/** By the name in a field's metadata, such as `long_text`. What nobody knows is written as text. */
export function controlNamed(name: string): Component<{ field: Field }> {
  const file = name.replace(/(^|_)([a-z])/g, (_, _gap, letter: string) => letter.toUpperCase());
  return files[`./${file}Field.svelte`] ?? files['./TextField.svelte'];
}
