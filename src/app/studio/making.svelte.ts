import * as v from 'valibot';
import type { Config } from '../../core/catalogue.ts';
import type { LanguageKind, LanguageSummary } from '../../core/language.ts';
import type { OperationInput } from '../../core/operation.ts';
import { courseOf } from '../../core/steps.ts';
import type { Course, Step } from '../../core/steps.ts';
import { media } from '../../media/registry.ts';
import { catalogue } from '../../pipelines/catalogue.ts';
import { t } from '../messages/messages.svelte.ts';
import { Persisted } from '../parts/persisted.svelte.ts';
import { paints } from './catalogue.ts';
import type { ConfigForm } from './config_form.svelte.ts';

/** A config that makes something, with a form of its own. */
export interface Way {
  config: Config;
  course: Course;
}

/** Pictures with a checkpoint of the Stable Diffusion family: their form follows the checkpoint, which chooses the config. */
export const PAINTING = 'painting';

const ways: Way[] = Object.values(catalogue.configs).flatMap((config) => {
  const course = courseOf(config, catalogue);
  return typeof course === 'string' || paints(course) ? [] : [{ config, course }];
});

const keptSchema = v.object({
  medium: v.fallback(v.string(), 'image'),
  /** The last choice of each medium: a config, or {@link PAINTING}. */
  ways: v.fallback(v.record(v.string(), v.string()), {}),
  /** The last language model and voice. */
  models: v.fallback(v.record(v.string(), v.string()), {}),
  /** Engines on other machines of which a server is entered. */
  engines: v.fallback(v.array(v.string()), []),
  /** Language models on servers that are entered. */
  served: v.fallback(v.array(v.object({ ref: v.string(), name: v.string(), host: v.string() })), []),
});

/** A language model or a voice that is here, or on a server. */
export interface LanguageModel {
  ref: string;
  name: string;
  /** Of the server that words go to; absent for one that is here. */
  host?: string;
}

/** Where language models are found. */
interface Shelf {
  languages: readonly { ref: string; name: string; kind: string; state: string }[];
}

/** What the person makes, and with what: a medium, one of the configs that make it, and the language models that its steps run. */
export class Making {
  /** Of the config that is chosen; null while it is fetched, and for {@link PAINTING}. */
  form = $state.raw<ConfigForm | null>(null);
  /** What could not be fetched, as a sentence; else null. */
  problem = $state<string | null>(null);
  /** Opened from a folder, for as long as the page is open. */
  opened = $state.raw<LanguageSummary[]>([]);
  /** Whether anything was chosen since the page was opened. */
  isChosen = false;
  readonly #kept = new Persisted('darkroom.making', keptSchema);
  readonly #shelf: Shelf;

  constructor(shelf: Shelf) {
    this.#shelf = shelf;
  }

  /** Those that can run here, and on servers that are entered. */
  readonly #known = $derived(
    ways.filter(({ course }) =>
      course.steps.every(
        ({ chunk: { meta } }) => !meta.needs.remote || this.#kept.current.engines.includes(meta.needs.remote),
      ),
    ),
  );

  /** What can be made at all, pictures first. */
  readonly media = $derived([
    'image',
    ...media
      .map(({ id }) => id)
      .filter((id) => id !== 'image' && this.#known.some(({ config }) => config.media === id)),
  ]);

  /** Where the current choice is made: here, here although entered servers could make it, or on a server. */
  readonly privacy = $derived.by(() => {
    if (this.way?.course.steps.some(({ chunk }) => chunk.meta.needs.remote !== undefined)) {
      return 'server';
    }
    return this.#kept.current.engines.length > 0 ? 'chosen' : 'here';
  });

  /**
   * What stands for a way in the list of choices: where it is made is asked apart from what it is.
   * @param painted the config that the form of pictures uses; null while no checkpoint is open
   */
  entryOf(way: Way | null, painted: string | null): string {
    const { id = PAINTING, here } = way?.config ?? {};
    if (here === undefined) {
      return id;
    }
    return here === painted ? PAINTING : this.ways.some(({ config }) => config.id === here) ? here : id;
  }

  /** The ways that make on servers what the chosen one makes. See {@link entryOf}. */
  elsewhere(painted: string | null): Way[] {
    const entry = this.entryOf(this.way, painted);
    return this.ways.filter((way) => way.config.id !== entry && this.entryOf(way, painted) === entry);
  }

  /** Engines of which a server is entered, and language models that such servers have. */
  takeEngines(engines: string[], served: Required<LanguageModel>[]): void {
    this.#kept.current.engines = engines;
    this.#kept.current.served = served;
    this.#kept.keep();
  }

  get medium(): string {
    const { medium } = this.#kept.current;
    return this.media.includes(medium) ? medium : 'image';
  }

  /** The configs of the medium that have a form of their own. */
  readonly ways = $derived(this.#known.filter(({ config }) => config.media === this.medium));

  /** Null for {@link PAINTING}. */
  readonly way = $derived.by((): Way | null => {
    const chosen = this.#kept.current.ways[this.medium];
    const way = this.ways.find(({ config }) => config.id === chosen);
    // Those that want a checkpoint of their own wait until somebody chooses them.
    const first = this.ways.find(({ course }) => course.main.chunk.meta.needs.checkpoint === undefined);
    return way ?? (this.medium === 'image' ? null : (first ?? this.ways[0]));
  });

  get isPainting(): boolean {
    return this.way === null;
  }

  /** Shows the form of what was chosen last. */
  async open(): Promise<void> {
    const { way } = this;
    if (way?.config.id === this.form?.config.id) {
      return;
    }
    this.form = null;
    this.problem = null;
    if (way) {
      try {
        const { ConfigForm } = await import('./config_form.svelte.ts');
        this.form = this.way === way ? new ConfigForm(way) : this.form;
      } catch {
        this.problem = t('This form could not be loaded; check the connection and reload the page.');
      }
    }
  }

  /** @param way a config's id, or {@link PAINTING}; the last one of the medium where nothing is said */
  async choose(medium: string, way?: string): Promise<void> {
    this.isChosen = true;
    this.#kept.current.medium = medium;
    if (way !== undefined) {
      this.#kept.current.ways[medium] = way;
    }
    this.#kept.keep();
    await this.open();
  }

  /** Shows the form of a config, where it has one. @returns whether it has */
  async chooseConfig(id: string): Promise<boolean> {
    const way = ways.find(({ config }) => config.id === id);
    await this.choose(way?.config.media ?? 'image', way?.config.id ?? PAINTING);
    return way !== undefined;
  }

  /**
   * Shows a form for the checkpoint that was opened, where one for checkpoints is shown that cannot run it.
   * @param isPainted whether the form of pictures can
   */
  async follow(pipelineClass: string, isPainted: boolean): Promise<void> {
    const classesOf = ({ course }: Way) => course.main.chunk.meta.needs.checkpoint;
    const { way } = this;
    if (way ? (classesOf(way)?.includes(pipelineClass) ?? true) : isPainted) {
      return;
    }
    const other = ways.find((one) => classesOf(one)?.includes(pipelineClass));
    if (isPainted) {
      await this.choose('image', PAINTING);
    } else if (other) {
      await this.choose(other.config.media, other.config.id);
    }
  }

  /** Steps that need a language model or a voice. */
  get languageSteps(): Step[] {
    return this.way?.course.steps.filter(({ chunk }) => chunk.meta.needs.language !== undefined) ?? [];
  }

  /** Those that are here, the one used last first, then those on servers. */
  modelsFor(kind: LanguageKind): LanguageModel[] {
    const stored = this.#shelf.languages.filter((one) => one.kind === kind && one.state === 'complete');
    const here = [...this.opened.filter((one) => one.kind === kind), ...stored].map(({ ref, name }) => ({ ref, name }));
    return kind === 'text' ? [...here, ...this.#kept.current.served] : here;
  }

  /** The one that is chosen, or else the first that is here; null where there is none. */
  modelOf(kind: LanguageKind): LanguageModel | null {
    const models = this.modelsFor(kind);
    return models.find(({ ref }) => ref === this.#kept.current.models[kind]) ?? models[0] ?? null;
  }

  /** One that was opened from a folder, which is chosen. */
  takeModel(summary: LanguageSummary): void {
    this.opened = [summary, ...this.opened.filter(({ ref }) => ref !== summary.ref)];
    this.chooseModel(summary.kind, summary.ref);
  }

  chooseModel(kind: LanguageKind, ref: string): void {
    this.#kept.current.models[kind] = ref;
    this.#kept.keep();
  }

  /** Which of these kinds no model is here of; null when nothing is missing. */
  missingModel(steps: readonly Step[]): LanguageKind | null {
    const kinds = steps.flatMap(({ chunk }) => chunk.meta.needs.language ?? []);
    return kinds.find((kind) => this.modelOf(kind) === null) ?? null;
  }

  /** The language models of steps, as an operation names them. */
  modelsOf(steps: readonly Step[]): Pick<OperationInput, 'checkpoints'> {
    const refs = steps.flatMap(({ id, chunk }) => {
      const model = chunk.meta.needs.language && this.modelOf(chunk.meta.needs.language);
      return model ? [[id, model.ref] as const] : [];
    });
    return refs.length > 0 ? { checkpoints: Object.fromEntries(refs) } : {};
  }
}
