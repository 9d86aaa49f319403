export type View = 'studio' | 'library';

/** Which view is on show. The address says it (`#library`), so that links, reloads and the back button work. */
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
  return location.hash === '#library' ? 'library' : 'studio';
}

export const view = new ViewChoice();
