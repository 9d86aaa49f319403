// Before the first paint: a theme that somebody chose beats the system's, and a language that somebody chose the browser's. A file of its own
// because the content security policy allows no inline script. The choices are written by src/app/parts/theme.svelte.ts and
// src/app/messages/messages.svelte.ts.
{
  let language = null;
  try {
    const theme = localStorage.getItem('darkroom.theme');
    if (theme === 'light' || theme === 'dark') {
      document.documentElement.dataset.theme = theme;
    }
    language = localStorage.getItem('darkroom.language');
  } catch {
    // Storage is blocked: the system's theme and the browser's language stand.
  }
  const tags = [language, ...navigator.languages].map((tag) => tag?.slice(0, 2));
  document.documentElement.lang = tags.find((tag) => tag === 'en' || tag === 'de') ?? 'en';
}
