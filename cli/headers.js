/**
 * The response headers of every served path, the same in `dev`, `preview` and the command line's own server.
 *
 * Cross-origin isolation gives precise timers and memory measurement; the policy lets the page speak to its own
 * origin and to nobody else. `development` admits what Vite's dev server needs (inline styles, its web socket).
 *
 * @param {{ development: boolean }} options
 * @returns {Record<string, string>}
 */
export function headers({ development }) {
  const policy = [
    `default-src 'self'`,
    `script-src 'self' 'wasm-unsafe-eval'${development ? ` 'unsafe-inline'` : ''}`,
    `worker-src 'self' blob:`,
    `connect-src 'self' blob: data:${development ? ' ws:' : ''}`,
    `img-src 'self' blob: data:`,
    `style-src 'self' 'unsafe-inline'`,
    `object-src 'none'`,
    `base-uri 'none'`,
    `form-action 'none'`,
    `frame-ancestors 'none'`,
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
