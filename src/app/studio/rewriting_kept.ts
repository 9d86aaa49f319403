/** Where it is kept how words are rewritten; what rewrites them is fetched only when it is used. */
export const REWRITING = 'darkroom.rewriting';

/** Whether the last visit ended with a rule or a translation. */
export function isRewriting(): boolean {
  try {
    const { rule, translates } = JSON.parse(localStorage.getItem(REWRITING) ?? '{}') as Record<string, unknown>;
    return (typeof rule === 'string' && rule !== '') || translates === true;
  } catch {
    return false;
  }
}
