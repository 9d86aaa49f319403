/** Serves the built page on the loopback interface, with the same headers as every other way of serving it. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, resolve, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { pathToFileURL } from 'node:url';
import { headersOf } from './headers.js';

/** @type {Record<string, string>} */
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.wasm': 'application/wasm',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.txt': 'text/plain; charset=utf-8',
  '.webmanifest': 'application/manifest+json',
};

/**
 * @param {string} folder what is served
 * @param {number} [port] 0 = any free one
 * @param {import('./server_proxy.js').ServerProxy} [proxy] answers what is for servers on other machines
 * @returns {Promise<{ url: string, close: () => Promise<void> }>}
 */
export async function serveFolder(folder, port = 0, proxy) {
  const root = resolve(folder);
  const server = createServer((request, response) => {
    if (proxy?.answer(request, response)) {
      return;
    }
    answer(root, request, response).catch(() => {
      // The reader disappeared, or the file did while being read.
      response.destroy();
    });
  });
  // A client may ask again just as its idle connection is closed, and is told that it was reset.
  server.keepAliveTimeout = 0;
  if (proxy) {
    server.on('upgrade', (...asked) => proxy.upgrade(...asked));
  }
  await new Promise((listening, failed) => {
    server.once('error', failed);
    server.listen(port, '127.0.0.1', () => listening(undefined));
  });
  const address = /** @type {import('node:net').AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${address.port}`,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        server.closeAllConnections();
      }),
  };
}

/**
 * @param {string} root
 * @param {import('node:http').IncomingMessage} request
 * @param {import('node:http').ServerResponse} response
 */
async function answer(root, request, response) {
  const common = headersOf(request.url ?? '/', { development: false });
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.writeHead(405, { ...common, Allow: 'GET, HEAD' }).end();
    return;
  }
  const file = await find(root, request.url ?? '/');
  if (!file) {
    response.writeHead(404, { ...common, 'Content-Type': 'text/plain; charset=utf-8' }).end('Not found.\n');
    return;
  }
  response.writeHead(200, {
    ...common,
    'Content-Type': TYPES[extname(file.path)] ?? 'application/octet-stream',
    'Content-Length': file.size,
    // Names in assets/ contain a hash of the content; everything else is revalidated, especially the service worker.
    'Cache-Control': file.isHashed ? 'public, max-age=31536000, immutable' : 'no-cache',
  });
  if (request.method === 'HEAD') {
    response.end();
  } else {
    await pipeline(createReadStream(file.path), response);
  }
}

/**
 * The file that a request's path names, or null; nothing outside `root` is ever named.
 * @param {string} root
 * @param {string} url
 */
async function find(root, url) {
  let path;
  try {
    path = decodeURIComponent(new URL(url, 'http://localhost').pathname);
  } catch {
    return null;
  }
  if (path.includes('\0')) {
    return null;
  }
  const inside = resolve(join(root, path.endsWith('/') ? `${path}index.html` : path));
  if (!inside.startsWith(root + sep)) {
    return null;
  }
  const stats = await stat(inside).catch(() => null);
  return stats?.isFile()
    ? { path: inside, size: stats.size, isHashed: inside.startsWith(join(root, 'assets') + sep) }
    : null;
}

// `node cli/server.js FOLDER PORT` serves until it is stopped.
if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { url } = await serveFolder(process.argv[2] ?? 'dist', Number(process.argv[3] ?? 4173));
  console.log(url);
}
