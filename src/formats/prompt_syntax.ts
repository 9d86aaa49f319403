/**
 * Prompt features of other tools that we do not support: they are taken literally, so each is reported.
 * Sources: ../shared/facts/formats.md, §3.
 */

/** Whose spelling a prompt has: A1111's is also that of Forge, Fooocus and others; compel's that of InvokeAI and Easy Diffusion. */
export type PromptSyntax = 'automatic1111' | 'comfyui' | 'compel' | 'novelai';

/** What is lost, as a part of a sentence, and its position; the first match is the example. */
type Rule = readonly [effect: (example: string) => string, pattern: RegExp];

const MAX_EXAMPLE = 40;
const ESCAPED = /\\[()[\]{}\\]/g;

const weights = (example: string) => `the effect of weights such as ${example}`;
const embeddings = (example: string) => `the effect of embeddings such as ${example}`;

const RULES: Record<PromptSyntax, readonly Rule[]> = {
  // Read as intended; whether the embeddings are here is another matter.
  automatic1111: [],
  comfyui: [[embeddings, /\bembedding:[^\s,()]{1,80}/i]],
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
 * What stays in the prompt as plain words without effect, each as a part of a sentence: `the effect of weights such as (blue:1.2)`.
 * A reader would not take an unclosed bracket for a weight, although A1111 applies it to the end.
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
