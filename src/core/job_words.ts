/** What a job is called: its prompt, or for want of one the first line of the lyrics that is sung; empty without either. */
export function wordsAsked({ prompt, lyrics }: Readonly<Record<string, unknown>>): string {
  if (typeof prompt === 'string' && prompt !== '') {
    return prompt;
  }
  const lines = typeof lyrics === 'string' ? lyrics.split('\n').map((line) => line.trim()) : [];
  // Lines in brackets say what a part is.
  return lines.find((line) => line !== '' && !/^\[[^\]]*\]$/.test(line)) ?? '';
}
