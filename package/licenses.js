/** The one licence file of the package: ours, and those of all that is inside. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const APACHE = 'The Apache License 2.0, whose text is at the top of this file.';

/** Licences by SPDX id, for packages that come without the text. @type {Record<string, (holder: string, folder: string) => string>} */
const TEXTS = {
  MIT: mit,
  'Apache-2.0': () => APACHE,
  // The second is that of one file, which says it.
  '(Apache-2.0 AND BSD-3-Clause)': (_, folder) => `${APACHE}\n\n${head(join(folder, 'dist/esm/wire/varint.js'))}`,
};

/** @param {string} file whose first lines are comments */
function head(file) {
  const lines = readFileSync(file, 'utf8').split('\n');
  const end = lines.findIndex((line) => !line.startsWith('//') && line !== '');
  return lines
    .slice(0, end)
    .map((line) => line.replace(/^\/\/ ?/, ''))
    .join('\n');
}

/**
 * @param {string} root of the project
 * @param {Iterable<string>} inside names of npm packages
 * @returns {string}
 * @throws {Error} for a package whose licence is not known
 */
export function licenses(root, inside) {
  /** @type {[string, string][]} */
  const parts = [
    ["CLIP's vocabulary (clip_merges.txt)", readFileSync(join(root, 'src/text/clip_merges.LICENSE'), 'utf8')],
    [
      'The weights realesr-animevideov3',
      readFileSync(join(root, 'public/checkpoints/realesr-animevideov3/LICENSE.txt'), 'utf8'),
    ],
  ];
  for (const name of [...new Set([...inside, 'onnxruntime-web'])].sort()) {
    const folder = join(root, 'node_modules', name);
    /** @type {unknown} */
    const parsed = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    const about = /** @type {{ version: string, license?: string, author?: string | { name: string } }} */ (parsed);
    const file = readdirSync(folder).find((entry) => /^(licen[sc]e|copying)/i.test(entry));
    const author = typeof about.author === 'string' ? about.author : about.author?.name;
    const text = file
      ? readFileSync(join(folder, file), 'utf8')
      : TEXTS[about.license ?? '']?.(author ?? `the authors of ${name}`, folder);
    if (!text) {
      throw new Error(`${name} says no licence that is known here (${about.license ?? 'none'}).`);
    }
    const notice = existsSync(join(folder, 'NOTICE')) ? `\n\n${readFileSync(join(folder, 'NOTICE'), 'utf8')}` : '';
    const origin = `Its source, unmodified, is the npm package ${name}@${about.version}.`;
    parts.push([`${name} ${about.version} (${about.license ?? 'see below'})`, `${text}${notice}\n\n${origin}`]);
  }
  const line = '-'.repeat(80);
  return [
    readFileSync(join(root, 'LICENSE'), 'utf8').trimEnd(),
    'The package also holds, under licences of their own:',
    ...parts.map(([title, text]) => `${line}\n${title}\n${line}\n\n${text.trim()}`),
    '',
  ].join('\n\n');
}

/** @param {string} holder */
function mit(holder) {
  return `Copyright (c) ${holder}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to
deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or
sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY,
WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.`;
}
