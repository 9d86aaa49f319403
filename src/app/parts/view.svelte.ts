export type View = 'studio' | 'library' | 'recordings' | 'sketches';

/** Which view is on show. The address says it (`#library`, `#recordings`, `#sketches`), so that links, reloads and the back button work. */
class ViewChoice {
  #current = $state<View>(read());

  constructor() {
    addEventListener('hashchange', () => (this.#current = read()));
  }

  get current(): View {
    return this.#current;
  }

  show(view: View): void {
    location.hash = view;
  }
}

function read(): View {
  const name = location.hash.slice(1);
  return name === 'library' || name === 'recordings' || name === 'sketches' ? name : 'studio';
}

export const view = new ViewChoice();
