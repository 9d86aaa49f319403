import { mediumNamed } from '../../media/registry.ts';
import { inSentence, ofLanguage, t } from '../messages/messages.svelte.ts';

/** What a recorded file is to its run; unknown types are shown as they are. */
export function entityWords(type: string): string {
  const known: Readonly<Record<string, () => string>> = {
    input: () => t('what was asked for'),
    config: () => t('all settings'),
    sent_messages: () => t('what the model was told'),
    plot: () => t('the values of a plot, and its pictures'),
    reply: () => t('what the model replied'),
    thinking: () => t('what the model thought'),
    interception: () => t('the words, rewritten'),
    translation: () => t('the words, translated'),
  };
  const [, way, kind] = /^(input|output)_(\w+)$/.exec(type) ?? [];
  const medium = kind === undefined ? null : mediumNamed(kind);
  if (medium) {
    const label = inSentence(ofLanguage(medium.label));
    return way === 'input' ? t('{kind}, given', { kind: label }) : t('{kind}, made', { kind: label });
  }
  return known[type]?.() ?? type.replaceAll('_', ' ');
}
