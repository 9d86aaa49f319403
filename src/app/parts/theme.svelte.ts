import { MediaQuery } from 'svelte/reactivity';

export const THEMES = ['system', 'light', 'dark'] as const;
export type Theme = (typeof THEMES)[number];

const KEY = 'darkroom.theme';

/** Light, dark or like the system. `public/theme.js` applies the stored choice before the first paint. */
class ThemeChoice {
  #theme = $state<Theme>(read());

  get current(): Theme {
    return this.#theme;
  }

  set current(theme: Theme) {
    this.#theme = theme;
    const root = document.documentElement;
    if (theme === 'system') {
      delete root.dataset.theme;
    } else {
      root.dataset.theme = theme;
    }
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // Storage is blocked: the choice only lasts as long as the page.
    }
  }
}

function read(): Theme {
  const theme = document.documentElement.dataset.theme;
  return theme === 'light' || theme === 'dark' ? theme : 'system';
}

export const theme = new ThemeChoice();

/** The theme in effect, for drawing without CSS. */
class ColourScheme {
  readonly #system = new MediaQuery('(prefers-color-scheme: dark)');

  get isDark(): boolean {
    return theme.current === 'dark' || (theme.current === 'system' && this.#system.current);
  }
}

export const colourScheme = new ColourScheme();
