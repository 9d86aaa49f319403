/** What became of settings that a file brought along, in sentences. */
import { isHashOf, type ModelHashes } from '../../core/model_hashes.ts';
import type { Reading, ReadParameters } from '../../formats/reading.ts';
import { stem, type MissingModel } from './recipe_models.svelte.ts';

/** What became of the settings, for the person who asked for them. */
export interface Outcome {
  sentence: string;
  /** What the sentence ends with as a list, where there is too much for one sentence. */
  lost: string[];
  /** The sentence with all of it, to be read out. */
  whole: string;
  /** Further sentences. */
  notes: string[];
  /** What it was made with and is not here. */
  missing: MissingModel[];
}

const allOf = new Intl.ListFormat('en');
const oneOf = new Intl.ListFormat('en', { type: 'disjunction' });

/** More than these in one sentence are hard to follow. */
const MAX_IN_SENTENCE = 3;

/** What a picture made from words has: as a parameter, in a sentence, and as the start of what is said when it was there and is lost. */
const USUAL = [
  ['width', 'size', 'the size'],
  ['steps', 'steps', 'the number of steps'],
  ['guidance_scale', 'guidance', 'the guidance'],
  ['seed', 'seed', 'the seed'],
] as const;

export interface UsedSettings {
  reading: Reading;
  /** Beside the checkpoint. */
  lost: readonly string[];
  /** Whether they went into the form of their own config, which has a place for all that was said. */
  isWhole: boolean;
  /** Samplers that draw noise in each step. */
  noisy: readonly string[];
  /** LoRAs that are not here. */
  missing: readonly MissingModel[];
}

/** @param checkpoint the one that is open, or null */
export function outcomeOf(settings: UsedSettings, checkpoint: { name: string; hashes: ModelHashes } | null): Outcome {
  const { reading } = settings;
  const { name, hash } = reading.checkpoint;
  const isIt = hash !== null && checkpoint ? isHashOf(hash, checkpoint.hashes) : null;
  const isCalledSo = name !== null && stem(name).toLowerCase() === stem(checkpoint?.name ?? '').toLowerCase();
  const other =
    isIt === true
      ? false
      : name !== null
        ? isCalledSo
          ? isIt === false && `the exact checkpoint ${stem(name)} (another file of that name is open)`
          : `the checkpoint ${stem(name)}`
        : hash !== null && `the checkpoint, which it names by the hash ${hash.slice(0, 12)} alone`;
  const lost = [...(other ? [other] : []), ...settings.lost];
  const inPrompt = lost.filter((what) => isInPrompt(what, reading.parameters));
  const isUsed = Object.keys(reading.parameters).length > 0;
  const isList = lost.length > MAX_IN_SENTENCE;
  const isSilent = (parameter: keyof ReadParameters, said: string) =>
    reading.parameters[parameter] === undefined && !lost.some((what) => what.startsWith(said));
  const { sampler = '', noise } = reading.parameters;
  const isNoisy = settings.noisy.includes(sampler) && noise === undefined && reading.tool !== 'Darkroom';
  const silent = USUAL.filter(([parameter, , said]) => isSilent(parameter, said)).map(([, what]) => what);
  return {
    missing: [...(other ? [{ name: stem(name ?? hash ?? '') }] : []), ...settings.missing],
    sentence: isUsed ? usedExcept(lost, isList) : unused(lost, isList),
    lost: isList ? lost : [],
    whole: isUsed ? usedExcept(lost, false) : unused(lost, false),
    notes: settings.isWhole
      ? []
      : [
          ...(reading.parameters.prompt === undefined ? ['The box for the prompt is empty now.'] : []),
          ...(inPrompt.some((what) => !EMBEDDING.test(what))
            ? ['These words stay in the prompt, but what they ask for is not done yet.']
            : []),
          ...(inPrompt.some((what) => EMBEDDING.test(what))
            ? ['An embedding acts once its file is added to the LoRAs in the library.']
            : []),
          ...(silent.length > 0
            ? [`The file does not give the ${oneOf.format(silent)}, so that stays as it was.`]
            : []),
          ...(isSilent('sampler', 'the sampler')
            ? ["The file gives no sampler, so the checkpoint's own is used."]
            : []),
          ...(isNoisy
            ? [
                `This sampler adds noise in each step, and ${reading.tool} draws it differently, so the picture will look different.`,
              ]
            : []),
          ...(lost.length > 0 && !isNoisy ? ['So a new picture may look different.'] : []),
        ],
  };
}

const EMBEDDING = /^the effect of (?:the embedding |embeddings such as (?:embedding:)?)(.+)$/i;

/** Whether what is lost is the effect of words that are in the form; embeddings may be listed and stand in no prompt. */
function isInPrompt(what: string, { prompt = '', negative_prompt: negative = '' }: ReadParameters): boolean {
  const [, embedding] = EMBEDDING.exec(what) ?? [];
  return embedding === undefined
    ? what.startsWith('the effect of')
    : `${prompt}\n${negative}`.toLowerCase().includes(embedding.toLowerCase());
}

function usedExcept(lost: string[], isList: boolean): string {
  if (lost.length === 0) {
    return 'Its settings are in the form now.';
  }
  return isList
    ? 'Its settings are in the form now, except for:'
    : `Its settings are in the form now, except for ${allOf.format(lost)}.`;
}

function unused(lost: string[], isList: boolean): string {
  if (lost.length === 0) {
    return 'None of its settings could be used.';
  }
  return isList
    ? 'None of its settings could be used, such as:'
    : `None of its settings could be used, such as ${allOf.format(lost)}.`;
}
