/**
 * What media load when a file is there is fetched as soon as a worker starts that records: a result must not depend on whether the server
 * still answers when it is done. Not by static imports: those of a worker count as the page's own, and it would wait for them.
 */
void Promise.all([
  import('../src/formats/container.ts'),
  import('../src/media/audio/tags.ts'),
  import('../src/media/audio/wav.ts'),
]).catch(() => undefined); // Whoever needs one asks again, and is told.

export {};
