/** What CodeMirror says, in its own English, and what stands for it in the person's language. */
import { t } from '../messages/messages.svelte.ts';

/** As `EditorState.phrases` takes them; `$` is a value. */
export function phrases(): Record<string, string> {
  return {
    Find: t('Find'),
    Replace: t('Replace'),
    next: t('next@match'),
    previous: t('previous@match'),
    all: t('all@matches'),
    'match case': t('match case'),
    regexp: t('regexp'),
    'by word': t('by word'),
    replace: t('replace@match'),
    'replace all': t('replace all'),
    close: t('close@search'),
    'current match': t('current match'),
    'on line': t('on line'),
    'replaced match on line $': t('replaced match on line $'),
    'replaced $ matches': t('replaced $ matches'),
    'Go to line': t('Go to line'),
    go: t('go@line'),
    'Control character': t('Control character'),
    'Selection deleted': t('Selection deleted'),
    to: t('to@line'),
  };
}
