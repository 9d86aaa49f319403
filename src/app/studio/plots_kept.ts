/** Whether there are plots to come back to, so that a page without any need not load what shows them. */
const KEY = 'darkroom.plots';

export function hasPlots(): boolean {
  try {
    return localStorage.getItem(KEY) !== null;
  } catch {
    return false;
  }
}

export function rememberPlots(areThere: boolean): void {
  try {
    if (areThere) {
      localStorage.setItem(KEY, '{}');
    } else {
      localStorage.removeItem(KEY);
    }
  } catch {
    // Storage is blocked: they live as long as the page.
  }
}
