/**
 * What tools act upon in a prompt beside its words. We take the words as they stand, so each of these is named.
 * Sources: ../shared/facts/formats.md, §3.
 */

/** Whose spelling a prompt has: A1111's is also that of Forge, Fooocus and others; compel's that of InvokeAI and Easy Diffusion. */
export type PromptSyntax = 'automatic1111' | 'comfyui' | 'compel' | 'novelai';

/** What is lost, as a part of a sentence, and where it stands; the first match is the example. */
type Rule = readonly [effect: (example: string) => string, pattern: RegExp];

const MAX_EXAMPLE = 40;
const ESCAPED = /\\[()[\]{}\\]/g;

const weights = (example: string) => `the effect of weights such as ${example}`;
const embeddings = (example: string) => `the effect of embeddings such as ${example}`;

const ROUND_WEIGHT: Rule = [weights, /\([^()[\]]{1,200}\)/];
const BREAK: Rule = [() => 'the effect of BREAK', /\bBREAK\b/];

const RULES: Record<PromptSyntax, readonly Rule[]> = {
  automatic1111: [
    ROUND_WEIGHT,
    [weights, /\[[^[\]:|]{1,200}\]/],
    [(example) => `the effect of editing such as ${example}`, /\[[^[\]|]{0,200}:\s*[\d.]{1,9}\s*\]/],
    [(example) => `the effect of alternating words such as ${example}`, /\[[^[\]|]{0,200}\|[^[\]]{0,200}\]/],
    BREAK,
    [() => 'the effect of AND', /\S\s+AND\s+\S/],
  ],
  comfyui: [ROUND_WEIGHT, [embeddings, /\bembedding:[^\s,()]{1,80}/i]],
  compel: [
    [
      weights,
      /\([^()]{1,200}\)(?:[+-]{1,9}|\d[\d.]{0,9})|(?<![\p{L}\p{N}])[\p{L}\p{N}]{1,60}(?:\+{1,9}|-{2,9})(?=[\s,.)]|$)/u,
    ],
    [embeddings, /<[^<>:\s]{1,60}>/],
    [(example) => `the effect of blends such as ${example}`, /\.(?:blend|and|swap)\([^()]{0,200}\)/],
  ],
  novelai: [[weights, /\{[^{}]{1,200}\}|\[[^[\]]{1,200}\]|-?\d[\d.]{0,5}::[^:]{1,200}::/]],
};

/**
 * What stays in the prompt as words and does nothing, each as a part of a sentence: `the effect of weights such as (blue:1.2)`.
 * A bracket that is never closed is no weight to whoever reads the prompt, though A1111 lets it count to the end.
 */
export function inactiveSyntax(prompts: readonly string[], syntax: PromptSyntax): string[] {
  // An empty line keeps the one prompt's brackets from closing the other's.
  const words = prompts.join('\n\n').replace(ESCAPED, ' ');
  const found = new Map<Rule[0], string>();
  for (const [effect, pattern] of RULES[syntax]) {
    const match = pattern.exec(words);
    if (match && !found.has(effect)) {
      found.set(effect, effect(shortened(match[0])));
    }
  }
  return [...found.values()];
}

function shortened(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > MAX_EXAMPLE ? `${line.slice(0, MAX_EXAMPLE - 1).toWellFormed()}…` : line;
}
