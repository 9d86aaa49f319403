const VIEWS = ['studio', 'library', 'recordings', 'sketches', 'engines'] as const;
export type View = (typeof VIEWS)[number];

/** The current view. It is in the URL (`#library`), so that links, reloads and the back button work. */
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
  return VIEWS.find((view) => view === name) ?? 'studio';
}

export const view = new ViewChoice();
