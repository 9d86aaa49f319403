/**
 * What tools act upon in a prompt beside its words. We take the words as they stand, so each of these is named.
 * Sources: ../shared/facts/formats.md, §3.
 */

/** Whose spelling a prompt has: A1111's is also that of Forge, Fooocus and others; compel's that of InvokeAI and Easy Diffusion. */
export type PromptSyntax = 'automatic1111' | 'comfyui' | 'compel' | 'novelai';

/** What it is called in a sentence, and where it stands; the first match is the example. */
type Rule = readonly [effect: string, pattern: RegExp];

const MAX_EXAMPLE = 40;
const ESCAPED = /\\[()[\]{}\\]/g;

const ROUND_WEIGHT: Rule = ['weights such as', /\([^()[\]]{1,200}\)/];
const BREAK: Rule = ['BREAK', /\bBREAK\b/];

const RULES: Record<PromptSyntax, readonly Rule[]> = {
  automatic1111: [
    ROUND_WEIGHT,
    ['weights such as', /\[[^[\]:|]{1,200}\]/],
    ['editing such as', /\[[^[\]|]{0,200}:\s*[\d.]{1,9}\s*\]/],
    ['alternating words such as', /\[[^[\]|]{0,200}\|[^[\]]{0,200}\]/],
    BREAK,
    ['AND', /\S\s+AND\s+\S/],
  ],
  comfyui: [ROUND_WEIGHT, ['embeddings such as', /\bembedding:[^\s,()]{1,80}/i]],
  compel: [
    [
      'weights such as',
      /\([^()]{1,200}\)(?:[+-]{1,9}|\d[\d.]{0,9})|(?<![\p{L}\p{N}])[\p{L}\p{N}]{1,60}(?:\+{1,9}|-{2,9})(?=[\s,.)]|$)/u,
    ],
    ['embeddings such as', /<[^<>:\s]{1,60}>/],
    ['blends such as', /\.(?:blend|and|swap)\([^()]{0,200}\)/],
  ],
  novelai: [['weights such as', /\{[^{}]{1,200}\}|\[[^[\]]{1,200}\]|-?\d[\d.]{0,5}::[^:]{1,200}::/]],
};

/**
 * What stays in the prompt as words and does nothing, each as a part of a sentence: `the effect of weights such as (blue:1.2)`.
 * A bracket that is never closed is no weight to whoever reads the prompt, though A1111 lets it count to the end.
 */
export function inactiveSyntax(prompts: readonly string[], syntax: PromptSyntax): string[] {
  // An empty line keeps the one prompt's brackets from closing the other's.
  const words = prompts.join('\n\n').replace(ESCAPED, ' ');
  const found = new Map<string, string>();
  for (const [effect, pattern] of RULES[syntax]) {
    const match = pattern.exec(words);
    if (match && !found.has(effect)) {
      found.set(effect, effect.endsWith('such as') ? ` ${example(match[0])}` : '');
    }
  }
  return [...found].map(([effect, shown]) => `the effect of ${effect}${shown}`);
}

function example(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > MAX_EXAMPLE ? `${line.slice(0, MAX_EXAMPLE - 1).toWellFormed()}…` : line;
}
