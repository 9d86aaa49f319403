/** What shows a result: one component per medium, `<Medium>.svelte` beside this file. The folder is the registry. */
import type { Component, Snippet } from 'svelte';
import type { Run } from '../recordings/runs.ts';
import type { Studio } from '../studio/studio.svelte.ts';

export interface ViewerProps {
  studio: Studio;
  /** The recorded file; null until it was read. */
  blob: Blob | null;
  /** What it is, for somebody who cannot see it. */
  alt: string;
  /** For saving, without an ending. */
  name: string;
  /** Of which it is a result; absent for what is shown by itself. */
  run?: Run;
  /** Width by height, of a picture that is not there yet. */
  shape?: number;
  /** After it has gone into the form. */
  onuse?: () => void;
  /** What stands below it; is handed the viewer's own buttons, to place them among the others. */
  children?: Snippet<[buttons: Snippet]>;
}

const files = import.meta.glob<{ default: Component<ViewerProps> }>('./*.svelte');

/** @returns null for a medium that has none: its files can be saved all the same */
export function viewerOf(medium: string): (() => Promise<{ default: Component<ViewerProps> }>) | null {
  return files[`./${medium.charAt(0).toUpperCase()}${medium.slice(1)}.svelte`] ?? null;
}
