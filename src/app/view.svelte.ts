export type View = 'studio' | 'library' | 'recordings';

/** Which view is on show. The address says it (`#library`, `#recordings`), so that links, reloads and the back button work. */
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
  return name === 'library' || name === 'recordings' ? name : 'studio';
}

export const view = new ViewChoice();
