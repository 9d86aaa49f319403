/** The Hugging Face hub and the hosts it redirects downloads to. */
const HUB = ['https://huggingface.co', 'https://*.hf.co'];

/**
 * Further hosts that checkpoints may be fetched from: the environment variable DARKROOM_HOSTS, origins with spaces between.
 * @returns {string[]}
 */
function hosts() {
  const origins = (process.env.DARKROOM_HOSTS ?? '').split(/\s+/).filter((origin) => origin !== '');
  for (const origin of origins) {
    if (!/^https?:\/\/(\*\.)?[a-z0-9.-]+(:[0-9]+)?$/i.test(origin)) {
      throw new Error(`DARKROOM_HOSTS names "${origin}", which is not an origin such as https://weights.example.org.`);
    }
  }
  return origins;
}

/**
 * The response headers of every served path but those of the sandbox ({@link headersOf}), the same in `dev`, `preview` and the command line's own server.
 *
 * Cross-origin isolation gives precise timers and memory measurement; the policy lets the page speak to its own
 * origin, to the hub and to the hosts that DARKROOM_HOSTS names, and to nobody else. `development` admits what Vite's dev
 * server needs (inline styles, its web socket).
 *
 * @param {{ development: boolean }} options
 * @returns {Record<string, string>}
 */
export function headers({ development }) {
  const policy = [
    `default-src 'self'`,
    `script-src 'self' 'wasm-unsafe-eval'${development ? ` 'unsafe-inline'` : ''}`,
    `worker-src 'self' blob:`,
    `connect-src 'self' blob: data: ${[...HUB, ...hosts()].join(' ')}${development ? ' ws:' : ''}`,
    `img-src 'self' blob: data:`,
    `media-src 'self' blob:`,
    `style-src 'self' 'unsafe-inline'`,
    `frame-src 'self'`,
    `object-src 'none'`,
    `base-uri 'none'`,
    `form-action 'none'`,
    // Only pages of this origin may embed Darkroom in a frame (docs/API.md).
    `frame-ancestors 'self'`,
  ];
  return {
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Content-Security-Policy': policy.join('; '),
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
  };
}

/**
 * The policy of the documents that sketches run in: code may be evaluated, and nothing can be asked of anybody. `connect-src` has `blob:` because
 * Tone fetches its audio worklets from there, and `data:`, from where p5 loads pictures; neither leaves the document. It is sent with everything
 * below `sandbox/`, and stands in `sandbox/stage.html` itself for hosts that send no headers of ours.
 */
export const SANDBOX_POLICY = [
  `default-src 'none'`,
  `script-src 'unsafe-inline' 'unsafe-eval' blob:`,
  `style-src 'unsafe-inline'`,
  `img-src blob: data:`,
  `media-src blob: data:`,
  `font-src blob: data:`,
  `worker-src blob:`,
  `connect-src blob: data:`,
  `form-action 'none'`,
  `base-uri 'none'`,
].join('; ');

/**
 * The policy of the worker that reaches servers which the person entered, with `{origins}` for theirs. Its script's address names them
 * (`?connect=`), once each. The page's own policy knows none of them.
 */
export const REMOTE_POLICY = [
  `default-src 'none'`,
  `script-src 'self' 'wasm-unsafe-eval'`,
  `connect-src blob: data: {origins}`,
  `worker-src 'none'`,
].join('; ');

/** Lets the page detect a server whose answers it may not read; isolation is the same. */
const REMOTE_EMBEDDER = 'credentialless';

const REMOTE_WORKER = /^[^?#]*\/remote\.worker[.-][^/?#]*\?/;

/** An origin that a policy can name, and that stands for a single host. */
const ORIGIN = /^https?:\/\/[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?$/;

/**
 * @param {string} path
 * @returns {string[] | null} origins that the worker of this address may reach, with their web sockets; null for another path
 */
function remoteOrigins(path) {
  if (!REMOTE_WORKER.test(path)) {
    return null;
  }
  const origins = new URL(path, 'http://localhost').searchParams.getAll('connect').filter((one) => ORIGIN.test(one));
  return origins.flatMap((origin) => [origin, origin.replace(/^http/, 'ws')]);
}

/**
 * The response headers of one path.
 *
 * @param {string} path of a request, with or without its query
 * @param {{ development: boolean }} options
 * @returns {Record<string, string>}
 */
export function headersOf(path, options) {
  const sent = headers(options);
  const origins = remoteOrigins(path);
  if (origins) {
    const policy = REMOTE_POLICY.replace(
      '{origins}',
      [...origins, ...(options.development ? ["'self'", 'ws:'] : [])].join(' '),
    );
    return { ...sent, 'Content-Security-Policy': policy, 'Cross-Origin-Embedder-Policy': REMOTE_EMBEDDER };
  }
  return isSandboxed(path) ? { ...sent, 'Content-Security-Policy': `${SANDBOX_POLICY}; frame-ancestors 'self'` } : sent;
}

/**
 * @param {string} path
 * @returns {boolean} whether it lies in the folder `sandbox`
 */
export function isSandboxed(path) {
  return /^[^?#]*\/sandbox\//.test(path);
}
