/**
 * The sentences that Qwen-Image's pipelines put around a prompt.
 * Reference: diffusers/pipelines/qwenimage/pipeline_qwenimage{,_edit,_edit_plus}.py
 */
import { ChatTokenizer } from './chat_tokenizer.ts';
import type { TokenizerFiles } from './clip_tokenizer.ts';
import { withTokenizerJson } from './qwen2_vocabulary.ts';
import written from './qwen_image_prompts.json';

export interface PromptFrame {
  /** What the model is told to do. */
  instruction: string;
  /** Tokens at the beginning that the transformer is not given: all of the instruction but its last line. */
  dropped: number;
  /** The most tokens after these that are read, what follows the prompt included. */
  longest: number;
  /** How pictures, numbered from 1, stand before the prompt. */
  picture(number: number): string;
}

const PICTURE = '<|image_pad|>';

const EDITING = {
  instruction: written.edit,
  dropped: 64,
  // The pipelines cut nothing there; this is what they name as the tokenizer's limit.
  longest: 1024,
};

export const PROMPT_FRAMES = {
  text: { instruction: written.describe, dropped: 34, longest: 512, picture: () => written.picture },
  edit: { ...EDITING, picture: () => written.picture },
  edit_plus: {
    ...EDITING,
    picture: (number) => written.numbered.replace('{number}', String(number)) + written.picture,
  },
} as const satisfies Record<string, PromptFrame>;

/** Writes prompts into a frame, whatever template lies beside the vocabulary. Throws as {@link ChatTokenizer}. */
export class QwenImageTokenizer {
  readonly #chat: ChatTokenizer;

  constructor(
    files: TokenizerFiles,
    readonly frame: PromptFrame,
  ) {
    const before = `<|im_start|>system\n${frame.instruction}<|im_end|>\n<|im_start|>user\n`;
    const after = '<|im_end|>\n<|im_start|>assistant\n';
    const template = `{{ ${JSON.stringify(before)} + pictures + messages[0].content + ${JSON.stringify(after)} }}`;
    const read = withTokenizerJson(files);
    this.#chat = new ChatTokenizer(
      { read: (name) => (name === 'chat_template.jinja' ? template : read.read(name)) },
      frame.dropped + frame.longest,
      {},
    );
  }

  /** The token that stands for a picture; undefined where the vocabulary has none. */
  get picture(): number | undefined {
    return this.#chat.idOf(PICTURE);
  }

  /** The most tokens that are read. */
  get limit(): number {
    return this.#chat.limit;
  }

  /** @param pictures that stand before the prompt, each as one token */
  encode(prompt: string, pictures: number): ReturnType<ChatTokenizer['encode']> {
    const introduced = Array.from({ length: pictures }, (_, k) => this.frame.picture(k + 1)).join('');
    return this.#chat.encode(prompt, { pictures: introduced });
  }
}
