/** Unmatched brackets in prompts: reported where they are, and read literally. */
import type { PromptSyntax } from './model.ts';

export interface PromptProblem {
  /** Its position in UTF-16 units from 0, and the text there. */
  at: number;
  text: string;
  /** A whole sentence. */
  sentence: string;
}

const PAIRS: Record<string, string> = { ')': '(', ']': '[' };

/** None if the prompt is read literally. */
export function promptProblems(prompt: string, syntax: PromptSyntax): PromptProblem[] {
  if (syntax === 'literal') {
    return [];
  }
  const brackets = syntax === 'automatic1111' ? '()[]' : '()';
  const problems: PromptProblem[] = [];
  const open: { at: number; text: string }[] = [];
  for (let at = 0; at < prompt.length; at++) {
    const text = prompt[at];
    if (text === '\\') {
      at++;
    } else if (brackets.includes(text) && !(text in PAIRS)) {
      open.push({ at, text });
    } else if (brackets.includes(text)) {
      if (open.at(-1)?.text === PAIRS[text]) {
        const { at: start } = open.pop() as { at: number };
        problems.push(...weightProblem(prompt, start, at));
      } else {
        const sentence = `The bracket "${text}" at character ${at + 1} closes nothing; write \\${text} where it is meant as a word.`;
        problems.push({ at, text, sentence });
      }
    }
  }
  for (const { at, text } of open) {
    const sentence = `The bracket "${text}" at character ${at + 1} is never closed; close it, or write \\${text} where it is meant as a word.`;
    problems.push({ at, text, sentence });
  }
  return problems.sort((a, b) => a.at - b.at);
}

/** Such as `(word:much)`, which needs a number. */
function weightProblem(prompt: string, start: number, end: number): PromptProblem[] {
  const inside = prompt.slice(start + 1, end);
  const [, weight] = /^[^()[\]]*:\s*([^:()[\]]*?)\s*$/.exec(inside) ?? [];
  if (prompt[start] !== '(' || weight === undefined || /^[+-]?(?:\d+\.?\d*|\.\d+)$/.test(weight)) {
    return [];
  }
  const text = prompt.slice(start, end + 1);
  return [
    {
      at: start,
      text,
      sentence: `"${text.slice(0, 60)}" at character ${start + 1} has no number behind its colon, so the colon is read as a word.`,
    },
  ];
}
