// Before the first paint: a theme that somebody chose beats the system's. A file of its own because the content security
// policy allows no inline script. The choice is written by src/app/theme.svelte.ts.
try {
  const theme = localStorage.getItem('darkroom.theme');
  if (theme === 'light' || theme === 'dark') {
    document.documentElement.dataset.theme = theme;
  }
} catch {
  // Storage is blocked: the system's theme stands.
}
