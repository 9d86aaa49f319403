/** The code editor: CodeMirror with JavaScript, in the page's own colours. Loaded on demand. */
import { closeBrackets, closeBracketsKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, indentWithTab, isolateHistory } from '@codemirror/commands';
import { javascript } from '@codemirror/lang-javascript';
import { bracketMatching, HighlightStyle, indentOnInput, indentUnit, syntaxHighlighting } from '@codemirror/language';
import { lintGutter, setDiagnostics } from '@codemirror/lint';
import { highlightSelectionMatches, search, searchKeymap } from '@codemirror/search';
import { Compartment, EditorState, type Extension, type Text } from '@codemirror/state';
import {
  drawSelection,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  highlightSpecialChars,
  keymap,
  lineNumbers,
} from '@codemirror/view';
import { tags } from '@lezer/highlight';
import type { Place } from '../../sandbox/preparation.ts';

export interface EditorOptions {
  text: string;
  words: EditorWords;
  /** The id of the hint on how to leave it by keyboard. */
  describedBy: string;
  onChange(text: string): void;
  onRun(): void;
}

export interface EditorWords {
  /** Its accessible name. */
  label: string;
  /** Translations of CodeMirror's own texts. */
  phrases: Record<string, string>;
}

export interface CodeEditor {
  /** Used by its search panel when opened next. */
  setWords(words: EditorWords): void;
  /** Replaces the text if it differs; undo restores the former. */
  setText(text: string): void;
  setProblem(problem: { message: string; place: Place } | null): void;
  /** Moves the cursor there and scrolls to it. */
  goTo(place: Place): void;
  /** Selects the text between two offsets, which may be equal, and takes the focus. */
  select(from: number, to: number): void;
  destroy(): void;
}

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier, tags.controlKeyword], color: 'var(--code-keyword)' },
  { tag: [tags.string, tags.regexp, tags.special(tags.string)], color: 'var(--code-string)' },
  { tag: [tags.number, tags.bool, tags.null, tags.atom, tags.self], color: 'var(--code-number)' },
  { tag: [tags.function(tags.variableName), tags.function(tags.propertyName)], color: 'var(--code-function)' },
  { tag: [tags.comment, tags.meta], color: 'var(--quiet)', fontStyle: 'italic' },
  { tag: tags.invalid, color: 'var(--accent)' },
]);

const look = EditorView.theme({
  '&': { height: '100%', color: 'var(--text)', backgroundColor: 'var(--well)', fontSize: 'var(--code-size)' },
  '&.cm-focused': { outline: '2px solid var(--accent)', outlineOffset: '-2px' },
  '.cm-scroller': {
    fontFamily: 'ui-monospace, "SF Mono", Menlo, Consolas, monospace',
    lineHeight: '1.55',
    overflow: 'auto',
  },
  '.cm-content': { caretColor: 'var(--text)', paddingBlock: '10px' },
  '.cm-cursor': { borderLeftColor: 'var(--text)' },
  '.cm-gutters': { color: 'var(--quiet)', backgroundColor: 'var(--well)', borderRight: '1px solid var(--line)' },
  '.cm-activeLine': { backgroundColor: 'color-mix(in srgb, var(--raised) 60%, transparent)' },
  '.cm-activeLineGutter': { color: 'var(--text)', backgroundColor: 'var(--raised)' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': {
    backgroundColor: 'var(--code-selection)',
  },
  '.cm-selectionMatch, .cm-matchingBracket': { backgroundColor: 'var(--code-match)' },
  '.cm-searchMatch': { backgroundColor: 'var(--code-match)', outline: '1px solid var(--edge)' },
  '.cm-panels': { color: 'var(--text)', backgroundColor: 'var(--raised)', borderColor: 'var(--line)' },
  '.cm-panel input, .cm-panel button': { font: 'inherit', minHeight: '28px' },
  '.cm-panel .cm-textfield': { color: 'var(--text)', backgroundColor: 'var(--well)', border: '1px solid var(--edge)' },
  '.cm-panel .cm-button': { color: 'var(--text)', background: 'var(--panel)', border: '1px solid var(--edge)' },
  '.cm-tooltip': { color: 'var(--text)', backgroundColor: 'var(--panel)', border: '1px solid var(--edge)' },
});

export function createEditor(parent: HTMLElement, options: EditorOptions): CodeEditor {
  let isOurs = false;
  const words = new Compartment();
  const extensionOf = ({ label, phrases }: EditorWords): Extension => [
    EditorState.phrases.of(phrases),
    EditorView.contentAttributes.of({ 'aria-label': label }),
  ];
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: options.text,
      extensions: [
        lineNumbers(),
        lintGutter(),
        highlightActiveLineGutter(),
        highlightSpecialChars(),
        history(),
        drawSelection(),
        indentOnInput(),
        indentUnit.of('  '),
        EditorState.tabSize.of(2),
        bracketMatching(),
        closeBrackets(),
        highlightActiveLine(),
        highlightSelectionMatches(),
        search({ top: true }),
        javascript(),
        syntaxHighlighting(colours),
        EditorView.lineWrapping,
        look,
        keymap.of([
          { key: 'Mod-Enter', run: () => (options.onRun(), true) },
          ...closeBracketsKeymap,
          ...defaultKeymap.filter(({ key }) => key !== 'Mod-Enter'),
          ...searchKeymap,
          ...historyKeymap,
          // Escape, then Tab leaves the editor: CodeMirror lets Tab go for two seconds after Escape.
          indentWithTab,
        ]),
        words.of(extensionOf(options.words)),
        EditorView.contentAttributes.of({
          'aria-describedby': options.describedBy,
          autocapitalize: 'off',
          autocorrect: 'off',
          spellcheck: 'false',
        }),
        EditorView.updateListener.of((update) => {
          if (update.docChanged && !isOurs) {
            options.onChange(update.state.doc.toString());
          }
        }),
      ],
    }),
  });
  return {
    setWords: (changed) => view.dispatch({ effects: words.reconfigure(extensionOf(changed)) }),
    setText(text) {
      const { doc } = view.state;
      if (doc.toString() !== text) {
        isOurs = true;
        // One undo step each, however fast they follow one another.
        view.dispatch({
          changes: { from: 0, to: doc.length, insert: text },
          annotations: isolateHistory.of('full'),
        });
        isOurs = false;
      }
    },
    setProblem(problem) {
      const diagnostics = problem
        ? [{ ...rangeAt(view.state.doc, problem.place), severity: 'error' as const, message: problem.message }]
        : [];
      view.dispatch(setDiagnostics(view.state, diagnostics));
    },
    goTo(place) {
      const { from } = rangeAt(view.state.doc, place);
      view.dispatch({ selection: { anchor: from }, effects: EditorView.scrollIntoView(from, { y: 'center' }) });
      view.focus();
    },
    select(from, to) {
      const { length } = view.state.doc;
      view.dispatch({ selection: { anchor: Math.min(from, length), head: Math.min(to, length) } });
      view.focus();
    },
    destroy: () => view.destroy(),
  };
}

/** From a position to the end of its word; if that is empty, the character before it, so that something is underlined. */
function rangeAt(doc: Text, { line, column }: Place): { from: number; to: number } {
  const found = doc.line(Math.max(1, Math.min(line, doc.lines)));
  const from = Math.min(found.from + column - 1, found.to);
  const word = /^[\w$]+|^./.exec(doc.sliceString(from, found.to))?.[0] ?? '';
  return word === '' ? { from: Math.max(found.from, from - 1), to: from } : { from, to: from + word.length };
}
