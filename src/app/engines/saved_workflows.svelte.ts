import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import { keep, readKept } from '../parts/kept.ts';

const KEY = 'workflows';

const schema = v.array(v.object({ name: v.string(), text: v.string() }));

/** Workflows saved under a name, in this browser. */
export class SavedWorkflows {
  list = $state.raw<readonly { name: string; text: string }[]>([]);

  async open(): Promise<void> {
    this.list = v.parse(v.fallback(schema, []), await readKept(KEY));
  }

  /** Replaces one of the same name. */
  async save(name: string, text: string): Promise<void> {
    const others = this.list.filter((one) => one.name !== name);
    await this.#write([...others, { name, text }].sort((a, b) => a.name.localeCompare(b.name)));
  }

  async remove(name: string): Promise<void> {
    await this.#write(this.list.filter((one) => one.name !== name));
  }

  async #write(list: { name: string; text: string }[]): Promise<void> {
    try {
      await keep(KEY, list);
    } catch (cause) {
      throw new StudioError(
        'storage_unavailable',
        'The workflow could not be saved, because the browser stores nothing just now; free some space, or use an ordinary window.',
        { cause },
      );
    }
    this.list = list;
  }
}
