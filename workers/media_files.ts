/**
 * Preloads the code that media need for a finished file as soon as a recording worker starts, so that a result does not depend on the
 * server still answering by then. Not a static import, which would delay the page.
 */
void Promise.all([
  import('../src/formats/container.ts'),
  import('../src/media/audio/tags.ts'),
  import('../src/media/audio/wav.ts'),
  import('../src/media/video/inscription.ts'),
]).catch(() => undefined); // Whoever needs it will retry and see the error.

export {};
