/** Mistral as a reader of prompts for FLUX.2 dev. Reference: diffusers/pipelines/flux2/pipeline_flux2.py */
import * as mistral from '../../graphs/mistral.ts';
import type { Conversation, UsualSettings } from '../../text/chat_tokenizer.ts';
import texts from '../../text/flux2_prompts.json';
import type { Component } from '../../weights/checkpoint.ts';
import { StudioError } from '../../core/errors.ts';
import type { LayerReader } from './layer_text.ts';

/** The layers whose hidden states FLUX.2 dev reads. */
const READ_AFTER = [10, 20, 30];

/** What stands for a picture in a conversation; in a prompt it would stand for one that is not there. */
const PICTURE = '[IMG]';

/**
 * FLUX.2 dev was trained to see a message before every prompt: `SYSTEM_MESSAGE` of diffusers/pipelines/flux2/system_messages.py, which has it
 * from https://github.com/black-forest-labs/flux2 (both Apache 2.0).
 */
export const FLUX2_CONVERSATION: Conversation = {
  said: (prompt) => prompt.replaceAll(PICTURE, ''),
  messages: (prompt) => [
    { role: 'system', content: [{ type: 'text', text: texts.system }] },
    { role: 'user', content: [{ type: 'text', text: prompt }] },
  ],
  begins: false,
};

/** Mistral Small 3's own template for one turn of the user, and what it fills up with. */
export const MISTRAL_USUAL: UsualSettings = {
  template: texts.template,
  pad: '<pad>',
  start: '<s>',
};

/** @throws StudioError `checkpoint_unsupported` for one with too few layers */
export function mistralReader(component: Component): LayerReader {
  const { weights } = component;
  const config = mistral.parseConfig(component.config);
  const last = Math.max(...READ_AFTER);
  if (config.num_hidden_layers < last) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The text encoder has ${config.num_hidden_layers} layers and FLUX.2 dev reads what comes after the ${last}th; choose the text encoder that FLUX.2 dev comes with.`,
    );
  }
  return {
    name: 'Mistral',
    component,
    table: mistral.embeddingTable(weights),
    widths: {
      hidden: config.hidden_size,
      angles: config.head_dim / 2,
      read: config.hidden_size * READ_AFTER.length,
    },
    padding: 'before',
    angles: (sequence) => mistral.angles(config, sequence),
    inputs: (sequence, kept) => {
      const { attention_bias, sight } = mistral.sightOf(sequence, kept);
      return {
        attention_bias: { data: attention_bias, dims: [1, 1, sequence, sequence] },
        sight: { data: sight, dims: [sequence, 1] },
      };
    },
    build: (options) => mistral.build(config, weights, { ...options, after: READ_AFTER }),
  };
}
