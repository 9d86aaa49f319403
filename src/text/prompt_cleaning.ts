/**
 * Prompts as Wan's pipelines clean them: marks of HTML become the characters that they stand for, twice over, and white space becomes single
 * spaces. Broken encodings, which the pipelines repair where the package ftfy is installed, stay as they are.
 * Reference: diffusers/pipelines/wan/pipeline_wan.py, `prompt_clean`
 */
const NAMED: Readonly<Record<string, string>> = {
  amp: '&',
  lt: '<',
  gt: '>',
  quot: '"',
  apos: "'",
  nbsp: '\u00a0',
  ndash: '–',
  mdash: '—',
  hellip: '…',
  lsquo: '‘',
  rsquo: '’',
  ldquo: '“',
  rdquo: '”',
  auml: 'ä',
  ouml: 'ö',
  uuml: 'ü',
  Auml: 'Ä',
  Ouml: 'Ö',
  Uuml: 'Ü',
  szlig: 'ß',
  eacute: 'é',
  egrave: 'è',
  copy: '©',
  reg: '®',
  deg: '°',
};

const LAST_CHARACTER = 0x10ffff;

export function cleanPrompt(prompt: string): string {
  return unescapeHtml(unescapeHtml(prompt)).replace(/\s+/gu, ' ').trim();
}

function unescapeHtml(text: string): string {
  return text.replace(/&(?:#(\d+)|#[xX]([\da-fA-F]+)|([a-zA-Z]+));/g, (whole: string, decimal, hex, name: string) => {
    if (name !== undefined) {
      return Object.hasOwn(NAMED, name) ? NAMED[name] : whole;
    }
    const code = decimal === undefined ? parseInt(String(hex), 16) : Number(decimal);
    return code > 0 && code <= LAST_CHARACTER ? String.fromCodePoint(code) : whole;
  });
}
