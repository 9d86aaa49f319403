import * as v from 'valibot';
import type { Config } from '../../core/catalogue.ts';
import { BLANK } from '../../core/config_file.ts';
import type { Operation, OperationInput } from '../../core/operation.ts';
import { courseOf, openEntries, valuesOf } from '../../core/steps.ts';
import type { Step } from '../../core/steps.ts';
import { catalogue } from '../../pipelines/catalogue.ts';
import { configFiles } from '../../pipelines/config_files.ts';
import { language, ofLanguage, t } from '../messages/messages.svelte.ts';
import { Persisted } from '../parts/persisted.svelte.ts';
import { before, paints } from './catalogue.ts';
import type { Making } from './making.svelte.ts';
import { REWRITING } from './rewriting_kept.ts';

/** The step that carries out a rule, and the one that translates what it is given into English. */
const [INTERCEPTION, TRANSLATION] = ['interception', 'translation'];

const keptSchema = v.object({
  /** The config of a rule, or the id of one of one's own; empty = none. */
  rule: v.fallback(v.string(), ''),
  translates: v.fallback(v.boolean(), false),
  /** Whether the picture is made without a look at the words. */
  isAtOnce: v.fallback(v.boolean(), false),
  own: v.fallback(v.array(v.object({ id: v.string(), name: v.string(), instruction: v.string() })), []),
  /** What was written by hand, and `of` which words: by the id of a rule, its template filled; by that of the step, a translation. */
  byHand: v.fallback(v.record(v.string(), v.object({ text: v.string(), of: v.string() })), {}),
});

/** How words are rewritten before a picture is made of them. */
export interface Rule {
  id: string;
  name: string;
  instruction: string;
  /** For whoever rewrites by hand; {@link BLANK} stands for the words. */
  template: string | null;
  isOwn: boolean;
}

/** A step that the person carries out. */
export interface ManualStep {
  /** Of the pipeline. */
  step: string;
  /** What it is kept under. */
  id: string;
  /** The words that it is about. */
  of: string;
  text: string;
  /** Whether the person has changed what it began with. */
  isWritten: boolean;
  /** Whether that was when the words were others. */
  isOutdated: boolean;
}

interface Rewriter {
  config: Config;
  /** The steps before the picture. */
  steps: Step[];
}

/** Configs that paint from words that other steps give. */
const rewriters: Rewriter[] = Object.values(catalogue.configs).flatMap((config) => {
  const course = courseOf(config, catalogue);
  const isOne = typeof course !== 'string' && before(course).length > 0 && paints(course);
  return isOne ? [{ config, steps: before(course) }] : [];
});

const hasSteps = ({ steps }: Rewriter, ...ids: string[]) =>
  steps.length === ids.length && ids.every((id, at) => steps[at].id === id);
/** Rules are told apart by their configs; the one without an instruction takes any. */
const ruled = rewriters.filter((one) => hasSteps(one, INTERCEPTION));
const forOwn = ruled.find(({ config }) => instructionOf(config) === null);
const translating = rewriters.find((one) => hasSteps(one, TRANSLATION));
const ruledAndTranslating = rewriters.find((one) => hasSteps(one, INTERCEPTION, TRANSLATION));

/** What happens to the words before a picture is made: a rule, a translation, both or nothing. Kept over reloads. */
export class Rewriting {
  readonly #kept = new Persisted(REWRITING, keptSchema);
  readonly #making: Making;

  constructor(making: Making) {
    this.#making = making;
  }

  /** Those that come with the page. */
  get given(): Rule[] {
    return ruled.flatMap(({ config }): Rule[] => {
      const instruction = instructionOf(config);
      const { template } = configFiles[config.id];
      return instruction === null
        ? []
        : [
            {
              id: config.id,
              name: ofLanguage({ en: config.name.en ?? '', de: config.name.de ?? config.name.en ?? '' }),
              instruction,
              template: template ? ofLanguage(template) : null,
              isOwn: false,
            },
          ];
    });
  }

  get own(): Rule[] {
    return forOwn ? this.#kept.current.own.map((one) => ({ ...one, template: forOwnTemplate(), isOwn: true })) : [];
  }

  /** The one that is chosen; null for none. */
  get rule(): Rule | null {
    return [...this.given, ...this.own].find(({ id }) => id === this.#kept.current.rule) ?? null;
  }

  get isOn(): boolean {
    return this.rule !== null || this.translates;
  }

  choose(id: string): void {
    this.#set({ rule: id });
  }

  get canTranslate(): boolean {
    return translating !== undefined;
  }

  get translates(): boolean {
    return this.#kept.current.translates && this.canTranslate;
  }

  set translates(translates: boolean) {
    this.#set({ translates });
  }

  get isAtOnce(): boolean {
    return this.#kept.current.isAtOnce;
  }

  set isAtOnce(isAtOnce: boolean) {
    this.#set({ isAtOnce });
  }

  /** No language model is here: the person does what it would do. */
  get isByHand(): boolean {
    return this.#making.modelOf('text') === null;
  }

  /** What the person has to write in place of a language model, one after the other, each made of the words before it. */
  manual(words: string): ManualStep[] {
    const { rule, translates } = this;
    const steps: ManualStep[] = [];
    const add = (step: string, id: string, of: string, begun: string) => {
      const written = id in this.#kept.current.byHand ? this.#kept.current.byHand[id] : null;
      const isOutdated = written !== null && written.of !== of;
      steps.push({ step, id, of, text: written?.text ?? begun, isWritten: written !== null, isOutdated });
    };
    if (rule) {
      add(INTERCEPTION, rule.id, words, (rule.template ?? BLANK).replaceAll(BLANK, words));
    }
    if (translates) {
      const text = steps.at(0)?.text ?? words;
      add(TRANSLATION, TRANSLATION, text, text);
    }
    return steps;
  }

  /** @param text null = as it was begun */
  writeByHand({ id, of }: ManualStep, text: string | null): void {
    const others = Object.entries(this.#kept.current.byHand).filter(([one]) => one !== id);
    this.#set({ byHand: Object.fromEntries(text === null ? others : [...others, [id, { text, of }]]) });
  }

  /** Begins a rule of one's own, which is chosen. */
  add(name: string, instruction: string): void {
    const id = `own:${crypto.randomUUID()}`;
    this.#set({ own: [...this.#kept.current.own, { id, name, instruction }], rule: id });
  }

  change(id: string, changes: { name?: string; instruction?: string }): void {
    this.#set({ own: this.#kept.current.own.map((one) => (one.id === id ? { ...one, ...changes } : one)) });
  }

  remove(id: string): void {
    this.#set({ own: this.#kept.current.own.filter((one) => one.id !== id), rule: '' });
  }

  /** The operation with what happens to its words beforehand; as it is where nothing does. */
  applyTo(operation: OperationInput): OperationInput {
    const { rule, translates } = this;
    const rewriter = this.#rewriter(rule, translates);
    if (!rewriter) {
      return operation;
    }
    const { prompt } = operation.parameters;
    const parameters = {
      ...operation.parameters,
      ...(rewriter.steps.some((step) => 'language' in openEntries(step)) ? { language: language.current } : {}),
      ...(rule && rewriter.config.id !== rule.id ? { [INTERCEPTION]: { instruction: rule.instruction } } : {}),
    };
    const rewritten = { ...operation, config: rewriter.config.id, parameters };
    if (this.isByHand) {
      const written = this.manual(typeof prompt === 'string' ? prompt : '');
      return { ...rewritten, given: Object.fromEntries(written.map(({ step, text }) => [step, { text }])) };
    }
    const last = rewriter.steps[rewriter.steps.length - 1];
    const { checkpoints } = this.#making.modelsOf(rewriter.steps);
    return {
      ...rewritten,
      ...(checkpoints ? { checkpoints: { ...operation.checkpoints, ...checkpoints } } : {}),
      ...(this.isAtOnce ? {} : { until: last.id }),
    };
  }

  /** Chooses what an earlier operation was made with. */
  restore({ config, parameters }: Operation): void {
    const rewriter = rewriters.find((one) => one.config.id === config);
    const told = parameters[INTERCEPTION];
    const instruction = typeof told === 'object' && told !== null && 'instruction' in told ? told.instruction : null;
    const known = [...this.given, ...this.own].find((rule) => rule.id === config || rule.instruction === instruction);
    this.#set({
      rule: rewriter ? (known?.id ?? '') : '',
      translates: rewriter?.steps.some(({ id }) => id === TRANSLATION) ?? false,
    });
    if (rewriter && !known && typeof instruction === 'string') {
      this.add(t('Rule of an earlier run'), instruction);
    }
  }

  #rewriter(rule: Rule | null, translates: boolean): Rewriter | undefined {
    if (rule) {
      return translates ? ruledAndTranslating : rule.isOwn ? forOwn : ruled.find(({ config }) => config.id === rule.id);
    }
    return translates ? translating : undefined;
  }

  #set(changes: Partial<v.InferOutput<typeof keptSchema>>): void {
    this.#kept.current = { ...this.#kept.current, ...changes };
    this.#kept.keep();
  }
}

function forOwnTemplate(): string | null {
  const template = forOwn && configFiles[forOwn.config.id].template;
  return template ? ofLanguage(template) : null;
}

/** A rule's text in the person's language; null for a config that brings none. */
function instructionOf(config: Config): string | null {
  const values = valuesOf(config)[INTERCEPTION];
  const instruction =
    typeof values === 'object' && values !== null && 'instruction' in values ? values.instruction : undefined;
  const parsed = v.safeParse(v.object({ en: v.string(), de: v.string() }), instruction);
  return parsed.success ? ofLanguage(parsed.output) : typeof instruction === 'string' ? instruction : null;
}
