/** The language engine against plain transformers.js: the same model in the same page, alternating. */
import { inStudio } from './studio.js';

/** @typedef {import('../src/core/text_service.ts').ChatMessage} ChatMessage */

/**
 * Greedy, so that both write the same; the first is a warm-up and is not counted.
 * @type {ChatMessage[][]}
 */
const CHATS = [
  [{ role: 'user', content: 'What is the sea made of?' }],
  [
    { role: 'system', content: 'You rewrite descriptions so that a painter could work from them.' },
    { role: 'user', content: 'A lighthouse in the storm, seen from a small boat.' },
  ],
  [{ role: 'user', content: 'Tell me how a house is built, step by step, from the ground to the roof.' }],
];

/**
 * @typedef {{ firstMs: number, perSecond: number, ids: number[] }} Written time to the first token, tokens per second after it
 * @typedef {{ ours: Written, plain: Written }} Pair
 */

/**
 * @param {import('playwright').Browser} browser
 * @param {'webgpu' | 'wasm'} backend
 * @param {string} folder of a model in transformers.js' layout
 * @param {number} count of pairs
 * @param {number} tokens of each answer
 * @returns {Promise<{ pairs: Pair[], precision: string }>}
 */
export function raceLanguage(browser, backend, folder, count, tokens) {
  return inStudio(browser, backend, async (page) => {
    // The page clears its file fields once it has taken the files.
    await page.evaluate(() => {
      const input = document.createElement('input');
      Object.assign(input, { type: 'file', id: 'raced', webkitdirectory: true });
      document.body.append(input);
    });
    await page.locator('#raced').setInputFiles(folder);
    return page.evaluate(race, { backend, count, tokens, chats: CHATS });
  });
}

/**
 * Runs in the page.
 * @param {{ backend: 'webgpu' | 'wasm', count: number, tokens: number, chats: ChatMessage[][] }} options
 */
async function race({ backend, count, tokens, chats }) {
  const { darkroom } = /** @type {{ darkroom: import('../src/jobs/door.ts').Door }} */ (
    /** @type {unknown} */ (globalThis)
  );
  const input = /** @type {HTMLInputElement} */ (document.querySelector('#raced'));
  const files = [...(input.files ?? [])].map((file) => ({ path: file.webkitRelativePath, file }));
  const { ref, recommended } = await darkroom.language.openFolder(files);
  const worker = new Worker('/plain/plain_language.js', { type: 'module' });

  /**
   * @param {import('./plain_language.ts').PlainRequest} request
   * @param {() => void} onToken
   * @returns {Promise<number[]>}
   */
  const ask = (request, onToken) =>
    new Promise((/** @type {(ids: number[]) => void} */ done, failed) => {
      worker.onmessage = (/** @type {MessageEvent<import('./plain_language.ts').PlainAnswer>} */ { data: answer }) => {
        switch (answer.type) {
          case 'token':
            onToken();
            break;
          case 'failed':
            failed(new Error(answer.message));
            break;
          default:
            done(answer.type === 'done' ? answer.ids : []);
        }
      };
      worker.onerror = ({ message }) => failed(new Error(message));
      worker.postMessage(request);
    });

  /**
   * Timed in the page, where the words are shown.
   * @param {(onToken: () => void) => Promise<number[]>} write
   */
  const timed = async (write) => {
    const begun = performance.now();
    /** @type {number | undefined} */
    let first;
    let last = begun;
    const ids = await write(() => {
      last = performance.now();
      first ??= last;
    });
    const since = first ?? last;
    return { firstMs: since - begun, perSecond: ((ids.length - 1) / (last - since)) * 1000, ids };
  };
  /** @param {ChatMessage[]} messages */
  const ours = (messages) =>
    timed(async (onToken) => {
      const request = { model: ref, messages, max_new_tokens: tokens, temperature: 0, seed: '0' };
      return (await darkroom.language.generate(request, onToken)).ids;
    });
  /** @param {ChatMessage[]} messages */
  const plain = (messages) => timed((onToken) => ask({ type: 'generate', messages, tokens }, onToken));

  const precision = recommended ?? 'fp32';
  const relative = files.map(({ path, file }) => ({ path: path.slice(path.indexOf('/') + 1), file }));
  await ask({ type: 'open', files: relative, backend, dtype: precision }, () => undefined);
  await ours(chats[0]);
  await plain(chats[0]);
  const pairs = [];
  for (let pair = 0; pair < count; pair++) {
    const messages = chats[1 + (pair % (chats.length - 1))];
    // Alternate who goes first, in case that is an advantage.
    const [one, other] = pair % 2 === 0 ? [ours, plain] : [plain, ours];
    const [first, second] = [await one(messages), await other(messages)];
    pairs.push(one === ours ? { ours: first, plain: second } : { ours: second, plain: first });
  }
  worker.terminate();
  return { pairs, precision };
}
