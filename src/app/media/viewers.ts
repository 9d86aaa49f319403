/** Viewers of results: one component per medium, `<Medium>.svelte` beside this file. The folder is the registry. */
import type { Component, Snippet } from 'svelte';
import type { Run } from '../recordings/runs.ts';
import type { Studio } from '../studio/studio.svelte.ts';

export interface ViewerProps {
  studio: Studio;
  /** The recorded file; null until it is read. */
  blob: Blob | null;
  /** A description for people who cannot see it. */
  alt: string;
  /** File name for saving, without extension. */
  name: string;
  /** The run it is a result of; absent for a file shown by itself. */
  run?: Run;
  /** Width by height of a picture that is not there yet. */
  shape?: number;
  /** After it has gone into the form. */
  onuse?: () => void;
  /** The content below it, which gets the viewer's own buttons to place among the others. */
  children?: Snippet<[buttons: Snippet]>;
}

const files = import.meta.glob<{ default: Component<ViewerProps> }>('./*.svelte');

/** @returns null for a medium without one; its files can still be saved */
export function viewerOf(medium: string): (() => Promise<{ default: Component<ViewerProps> }>) | null {
  return files[`./${medium.charAt(0).toUpperCase()}${medium.slice(1)}.svelte`] ?? null;
}
