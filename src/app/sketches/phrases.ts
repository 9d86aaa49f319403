/** CodeMirror's English texts and their translations. */
import { t } from '../messages/messages.svelte.ts';

/** In the form `EditorState.phrases` takes; `$` is a placeholder. */
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
