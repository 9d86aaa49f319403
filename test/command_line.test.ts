/** What the command line needs before it opens a page: the operation's file and a Chromium. */
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { readOperation, withFiles } from '../cli/arguments.js';
import { findChromium, installChromium, provideChromium } from '../cli/chromium.js';
import { Failure } from '../cli/failure.js';
import { findFault, parseJson } from '../cli/json.js';
import { serveFolder } from '../cli/server.js';
import { ServerProxy } from '../cli/server_proxy.js';
import { checkServers, serversIn } from '../cli/servers.js';
import { namedFiles } from '../src/core/named_files.ts';
import { parseOperation } from '../src/core/operation.ts';
import { readAddress } from '../src/core/remote.ts';
import { engineFacts } from '../src/engines/engine.ts';
import { crc32 } from '../src/formats/crc32.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { FakeService, json } from './fake_service.ts';
import type { Routes } from './fake_service.ts';

const folder = mkdtempSync(join(tmpdir(), 'darkroom-command-line-'));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** What an operation file with these bytes is read as, or the refusal. */
async function read(bytes: Uint8Array | string): Promise<{ operation?: unknown; failure?: Failure; said: string[] }> {
  const path = join(folder, 'operation.json');
  writeFileSync(path, bytes);
  const said: string[] = [];
  return readOperation(path, (sentence) => said.push(sentence)).then(
    (operation) => ({ operation, said }),
    (failure: unknown) => ({ failure: failure as Failure, said }),
  );
}

const TEXT = '{\r\n "parameters": { "prompt": "Käse 🧀 und 紙の船" }\r\n}';
const OPERATION = JSON.parse(TEXT) as unknown;
const utf16 = (text: string) => Buffer.from(text, 'utf16le');

describe('an operation is read in the encodings that editors and shells write', () => {
  const encodings: [string, Uint8Array, string | null][] = [
    ['UTF-8', Buffer.from(TEXT), null],
    ['UTF-8 with a byte order mark', Buffer.from(`\ufeff${TEXT}`), null],
    ['UTF-16LE, as Windows PowerShell redirects', utf16(`\ufeff${TEXT}`), 'UTF-16LE'],
    ['UTF-16BE', utf16(`\ufeff${TEXT}`).swap16(), 'UTF-16BE'],
  ];
  test.each(encodings)('%s', async (_, bytes, named) => {
    const { operation, said } = await read(bytes);
    expect(operation).toEqual(OPERATION);
    expect(said).toEqual(named ? [expect.stringMatching(new RegExp(`operation\\.json was read as ${named},`))] : []);
  });

  const others: [string, Uint8Array | string, RegExp][] = [
    ['Latin-1', Buffer.from(TEXT.replace(/[^\0-\xff]/g, ''), 'latin1'), /not UTF-8 text at line 2, column 30; save it/],
    ['UTF-16 without a byte order mark', utf16(TEXT), /looks like UTF-16 text without a byte order mark; save it as/],
    ['UTF-16 that was cut', utf16(`\ufeff${TEXT}`).subarray(0, -1), /not UTF-16LE text at line 3, column 1; save it/],
    ['a byte order mark and nothing else', '\ufeff', /is not JSON: line 1, column 1: the file is empty\.$/],
    ['a byte order mark before broken JSON', '\ufeff{"a": }', /is not JSON: line 1, column 7: a value is expected/],
  ];
  test.each(others)('%s is refused in one sentence', async (_, bytes, sentence) => {
    const { failure } = await read(bytes);
    expect(failure).toBeInstanceOf(Failure);
    expect([failure?.code, failure?.exitCode]).toEqual(['invalid_operation', 2]);
    expect(failure?.message).toMatch(sentence);
  });
});

describe('files that an operation names by their paths', () => {
  writeFileSync(join(folder, 'a.png'), 'picture');
  writeFileSync(join(folder, 'b.wav'), 'sound');
  const [picture, sound] = ['data:image/png;base64,cGljdHVyZQ==', 'data:audio/wav;base64,c291bmQ='];
  const brought = async (config: string, parameters: object) => {
    const operation = { operation: 'image_generation', config, parameters };
    return withFiles(operation, namedFiles(parseOperation(operation), catalogue), folder);
  };

  test.each([
    ['stable_diffusion', { image: 'a.png', mask_image: picture }, { image: picture, mask_image: picture }],
    ['stable_diffusion', { prompt: 'a.png' }, { prompt: 'a.png' }],
    ['stable_diffusion', { control_images: ['a.png'] }, { control_images: [picture] }],
    ['qwen_image_edit', { images: ['a.png', picture] }, { images: [picture, picture] }],
    ['ace_step', { audio: 'b.wav' }, { audio: sound }],
    ['interception_less', { output: { image: 'a.png', steps: 3 } }, { output: { image: picture, steps: 3 } }],
    [
      'own_workflow',
      { workflow: { 3: { inputs: { image: 'a.png' } } }, images: ['a.png'] },
      { workflow: { 3: { inputs: { image: 'a.png' } } }, images: [picture] },
    ],
    ['no_such_config', { image: 'a.png' }, { image: 'a.png' }],
  ])('are brought with it where its chunks take files: %s, %j', async (config, parameters, expected) => {
    expect(await brought(config, parameters)).toMatchObject({ parameters: expected });
  });

  test.each([
    [
      'qwen_image_edit',
      { images: ['a.png', 'none.png'] },
      /The picture .*none\.png, which images names, cannot be read\.$/,
    ],
    ['ace_step', { audio: 'none.wav' }, /The sound .*none\.wav, which audio names, cannot be read\.$/],
    ['ace_step', { audio: 'a.png' }, /^audio must be a WAV, FLAC, MP3, Ogg, M4A, WebM or MP4 file; it is .*a\.png\.$/],
    ['stable_diffusion', { mask_image: 'b.wav' }, /^mask_image must be a PNG, JPEG or WebP file; it is .*b\.wav\.$/],
  ])('are refused in one sentence: %s, %j', async (config, parameters, sentence) => {
    await expect(brought(config, parameters)).rejects.toMatchObject({
      code: 'invalid_operation',
      message: expect.stringMatching(sentence) as string,
    });
  });
});

describe('broken JSON is told by line and column', () => {
  const cases: [string, string][] = [
    ['', 'line 1, column 1: the file is empty'],
    ['\n\r\n\r  ', 'line 4, column 3: the file is empty'],
    ['{\n  "a": 1,\n}', 'line 3, column 1: there is a comma before "}"'],
    ['{"a": [1, 2,\r\n]}', 'line 2, column 1: there is a comma before "]"'],
    ['{\n  "a": 1\n  "b": 2\n}', 'line 3, column 3: a comma or "}" is expected'],
    ['[1 2]', 'line 1, column 4: a comma or "]" is expected'],
    ['{\n"a" 1}', 'line 2, column 5: a colon is expected'],
    ['{\n  prompt: 1}', 'line 2, column 3: a name in double quotes is expected'],
    ["{'a': 1}", 'line 1, column 2: texts stand in straight double quotes (")'],
    ['{"a": “b”}', 'line 1, column 7: texts stand in straight double quotes (")'],
    ['{"a": 1 // one\n}', 'line 1, column 9: JSON has no comments'],
    ['# one\n{}', 'line 1, column 1: JSON has no comments'],
    ['{"a": True}', 'line 1, column 7: a value is expected: a text in double quotes, a number, true, false or null'],
    ['{"a": trye}', 'line 1, column 9: "true" is misspelt'],
    ['{"a": }', 'line 1, column 7: a value is expected: a text in double quotes, a number, true, false or null'],
    ['{"a": 01}', 'line 1, column 8: a number may not begin with 0'],
    ['{"a": .5}', 'line 1, column 7: a value is expected: a text in double quotes, a number, true, false or null'],
    ['{"a": 5.}', 'line 1, column 9: a digit is expected after the decimal point'],
    ['{"image": "C:\\pictures"}', 'line 1, column 15: a backslash is written twice, as in "C:\\\\pictures"'],
    ['{"a": "\\u00g0"}', 'line 1, column 12: \\u is followed by four hexadecimal digits'],
    [
      '{\n"a": "b\n}',
      'line 2, column 8: a text may not go over a line\'s end or hold a tab; write \\n or \\t, or close it with "',
    ],
    ['{\n"a": "b', 'line 2, column 8: the text that begins at line 2, column 6 is never closed with "'],
    ['{"a": {\n"b": 1\n', 'line 3, column 1: the file ends before its last "}"'],
    ['{"a"', 'line 1, column 5: the file ends before its last "}"'],
    ['{}\n{}', 'line 2, column 1: nothing may follow the end of the JSON'],
  ];
  test.each(cases)('%j', (text, message) => {
    expect(() => parseJson(text)).toThrow(new SyntaxError(message));
  });

  test('the command line says it with the file, and exits with 2', async () => {
    const { failure } = await read('{\n  "operation": "image_generation",\n}');
    expect(failure?.exitCode).toBe(2);
    expect(failure?.message).toBe(
      `${join(folder, 'operation.json')} is not JSON: line 3, column 1: there is a comma before "}".`,
    );
  });

  test('it finds a fault exactly where V8 does, in anything', () => {
    const json = fc.json({ maxDepth: 3 });
    const pieces = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"',
      "'",
      '\\',
      '\n',
      '0',
      '-',
      '.',
      'e',
      'u',
      't',
      '/',
      ' ',
      '“',
    );
    const mutant = fc
      .tuple(json, fc.nat(), fc.nat({ max: 3 }), fc.array(pieces, { maxLength: 3 }))
      .map(([text, at, cut, added]) => {
        const start = at % (text.length + 1);
        return text.slice(0, start) + added.join('') + text.slice(start + cut);
      });
    let faults = 0;
    fc.assert(
      fc.property(
        fc.oneof(
          json,
          mutant,
          fc.array(pieces).map((parts) => parts.join('')),
        ),
        (text) => {
          const fault = findFault(text);
          try {
            JSON.parse(text);
          } catch (error) {
            faults++;
            const message = (error as Error).message;
            const position = /at position (\d+)/.exec(message)?.[1];
            const wanted = message.startsWith('Unexpected end') ? text.length : position && Number(position);
            expect(fault?.at).toBe(wanted ?? fault?.at);
            expect(fault).not.toBeNull();
            return;
          }
          expect(fault).toBeNull();
        },
      ),
      { numRuns: 5000 },
    );
    expect(faults).toBeGreaterThan(1000);
  });
});

describe('a Chromium is found, or else downloaded', () => {
  afterEach(() => {
    vi.unstubAllEnvs();
  });
  const none = () => {
    vi.stubEnv('DARKROOM_CHROMIUM', '');
    vi.stubEnv('CHROMIUM_PATH', '');
  };
  const program = (name: string, lines: string) => {
    const path = join(folder, name);
    writeFileSync(path, lines);
    chmodSync(path, 0o755);
    return path;
  };

  test('one that is there is taken, and nothing is said', async () => {
    none();
    const install = vi.fn();
    const say = vi.fn();
    expect(await provideChromium({ find: () => '/bin/some', install, say })).toBe('/bin/some');
    expect([install.mock.calls, say.mock.calls]).toEqual([[], []]);
  });

  test('where there is none, it is downloaded and then found', async () => {
    none();
    let installed: string | undefined;
    const said: string[] = [];
    const install = (say: (line: string) => void) => {
      say('Downloading …');
      installed = '/new/chrome';
      return Promise.resolve(null);
    };
    expect(await provideChromium({ find: () => installed, install, say: (line) => said.push(line) })).toBe(
      '/new/chrome',
    );
    expect(said).toEqual([expect.stringMatching(/^No Chromium was found; Playwright downloads one/), 'Downloading …']);
  });

  const failures: [string, string | null, string][] = [
    ['a download that fails', 'getaddrinfo ENOTFOUND example.org', 'getaddrinfo ENOTFOUND example.org'],
    ['an installer that says it is done and is not', null, 'it is not where Playwright said'],
    ['a full disk', 'ENOSPC: no space left on device, write', 'ENOSPC: no space left on device, write'],
  ];
  test.each(failures)('%s is one sentence that says what to install', async (_, fault, reason) => {
    none();
    const install = () => Promise.resolve(fault);
    const refusal = await provideChromium({ find: () => undefined, install, say: () => undefined }).catch(
      (error: unknown) => error as Failure,
    );
    expect(refusal).toMatchObject({
      code: 'no_chromium',
      exitCode: 1,
      message: `No Chromium was found, and downloading one failed (${reason}); install Chromium or Chrome, or name its program in DARKROOM_CHROMIUM.`,
    });
  });

  test('one that somebody named and that cannot be started is said; nothing is downloaded in its place', async () => {
    none();
    const install = vi.fn();
    for (const variable of ['DARKROOM_CHROMIUM', 'CHROMIUM_PATH']) {
      none();
      vi.stubEnv(variable, join(folder, 'none'));
      expect(findChromium()).toBeUndefined();
      await expect(provideChromium({ install, say: () => undefined })).rejects.toThrow(
        new RegExp(`^${variable} names .+none, which cannot be started; correct it, or unset it`),
      );
    }
    expect(install).not.toHaveBeenCalled();
    const here = program('chromium.js', '');
    vi.stubEnv('DARKROOM_CHROMIUM', here);
    expect(await provideChromium({ install })).toBe(here);
  });

  test("the installer's progress is passed on, and its first error is the reason", async () => {
    const installer = program(
      'installer.mjs',
      `console.log('Downloading Chromium \\x1b[2mfrom somewhere\\x1b[22m');
       console.log('Downloading Chromium from somewhere');
       console.log('|■■      |  20% of 160 MiB');
       console.error('Error: connect ECONNREFUSED 127.0.0.1:9.\\n    at afterConnect (node:net:1:1)');
       console.log('Failed to install browsers\\nError: Failed to download Chromium');
       process.exit(Number(process.argv[2]));`,
    );
    const run = async (code: string) => {
      const said: string[] = [];
      const fault = await installChromium((line) => said.push(line), [process.execPath, installer, code]);
      return { fault, said };
    };
    const said = ['Downloading Chromium from somewhere', '|■■      |  20% of 160 MiB'];
    expect(await run('1')).toEqual({ fault: 'connect ECONNREFUSED 127.0.0.1:9', said });
    expect(await run('0')).toEqual({ fault: null, said });
    const silent = program('silent.mjs', 'process.exit(3)');
    expect(await installChromium(() => undefined, [process.execPath, silent])).toBe('its installer ended with 3');
    expect(await installChromium(() => undefined, [join(folder, 'none')])).toContain('ENOENT');
  });

  /** Installed beside it, under a different name on each system. */
  const FFMPEG = ['ffmpeg-linux', 'ffmpeg-mac', 'ffmpeg-win64.exe'];

  /** Runs provideChromium on a machine without one, with Playwright downloading from a test server. */
  async function onFreshMachine(home: string, answer: Buffer | null) {
    const asked: string[] = [];
    const server = createServer((request, response) => {
      asked.push(request.url ?? '');
      response.writeHead(answer ? 200 : 404, { 'content-length': answer?.length ?? 0 }).end(answer ?? undefined);
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    try {
      const chromium = JSON.stringify(join(import.meta.dirname, '../cli/chromium.js'));
      const child = spawn(
        process.execPath,
        [
          '--input-type=module',
          '--eval',
          `import { provideChromium } from ${chromium}; provideChromium().then(console.log, (error) => console.log(error.message));`,
        ],
        {
          env: {
            PATH: folder,
            PLAYWRIGHT_BROWSERS_PATH: join(folder, home),
            PLAYWRIGHT_DOWNLOAD_HOST: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
          },
        },
      );
      const output = { out: '', err: '' };
      child.stdout.on('data', (text: Buffer) => (output.out += text.toString()));
      child.stderr.on('data', (text: Buffer) => (output.err += text.toString()));
      await new Promise((done) => child.once('close', done));
      return { ...output, out: output.out.trimEnd(), asked };
    } finally {
      server.close();
    }
  }

  test("Playwright's own installer brings it where the download works", { timeout: 180_000 }, async () => {
    // Below its revision's folder, which the installer creates.
    const { out: where } = await onFreshMachine('asked', null);
    expect(where).toMatch(/downloading one failed \(.*404.*\); install Chromium or Chrome, or name its program/);
    const executable = await import('playwright').then(({ chromium }) => chromium.executablePath());
    const inside = executable.split(/[\\/]chromium-\d+[\\/]/).at(-1) ?? '';
    const { out, err, asked } = await onFreshMachine('home', zipOf(inside.replaceAll('\\', '/'), ...FFMPEG));
    expect(out.startsWith(join(folder, 'home')), out + err).toBe(true);
    expect(out.endsWith(inside)).toBe(true);
    expect(err).toMatch(/^No Chromium was found; Playwright downloads one now, once\.\nDownloading /);
    expect(asked.some((path) => path.includes('chrom'))).toBe(true);
    const again = await onFreshMachine('home', null);
    expect(again).toEqual({ out, err: '', asked: [] });
  });
});

/** A ZIP archive of programs that do nothing. Its format: PKWARE's APPNOTE.TXT, sections 4.3.7 to 4.3.16. */
function zipOf(...names: string[]): Buffer {
  const content = Buffer.from('#!/bin/sh\n');
  const locals: Buffer[] = [];
  const entries: Buffer[] = [];
  for (const name of names) {
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt32LE(crc32(content), 10);
    common.writeUInt32LE(content.length, 14);
    common.writeUInt32LE(content.length, 18);
    common.writeUInt16LE(name.length, 22);
    // Made on Unix, so that the mode counts.
    const entry = Buffer.concat([Buffer.from([0x50, 0x4b, 1, 2, 20, 3]), common, Buffer.alloc(14), Buffer.from(name)]);
    entry.writeUInt32LE(0o100755 * 2 ** 16, 38);
    entry.writeUInt32LE(Buffer.concat(locals).length, 42);
    entries.push(entry);
    locals.push(Buffer.from([0x50, 0x4b, 3, 4]), common, Buffer.from(name), content);
  }
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(names.length, 8);
  end.writeUInt16LE(names.length, 10);
  end.writeUInt32LE(Buffer.concat(entries).length, 12);
  end.writeUInt32LE(Buffer.concat(locals).length, 16);
  return Buffer.concat([...locals, ...entries, end]);
}

describe('servers on other machines are named by the environment', () => {
  const named = async (environment: Record<string, string>) =>
    serversIn(await engineFacts(), environment, (typed) => Promise.resolve(typed).then(readAddress));

  test('by address, several of a kind, with one key; a key alone is enough where it says which service is meant', async () => {
    const servers = await named({
      COMFYUI_URL: '127.0.0.1:8188, http://lab.local:8188/',
      COMFYUI_API_KEY: 'mine',
      A1111_URL: 'http://127.0.0.1:7860',
      AUTOMATIC1111_MODEL: 'dream.safetensors',
      A1111_API_KEY: 'user:password',
      OPENAI_API_KEY: 'sk-1',
      GEMINI_API_KEY: '',
      OPENAI_CHAT_API_KEY: 'sk-2',
    });
    expect(servers).toEqual([
      {
        engine: 'automatic1111',
        address: 'http://127.0.0.1:7860',
        settings: { model: 'dream.safetensors' },
        key: 'user:password',
      },
      { engine: 'comfyui', address: 'http://127.0.0.1:8188', settings: {}, key: 'mine' },
      { engine: 'comfyui', address: 'http://lab.local:8188', settings: {}, key: 'mine' },
      { engine: 'openai_images', address: 'https://api.openai.com/v1', settings: {}, key: 'sk-1' },
    ]);
    expect(await named({ OPENAI_BASE_URL: 'http://127.0.0.1:1234/v1' })).toMatchObject([
      { engine: 'openai_images', address: 'http://127.0.0.1:1234/v1', key: null },
    ]);
  });

  test('what is wrong is said with the name of the variable, and never the key', async () => {
    await expect(named({ COMFYUI_URL: 'http://[::1]:8188' })).rejects.toThrow(
      /^COMFYUI_URL: "http:\/\/\[::1\]:8188" is not/,
    );
    await expect(named({ OPENAI_API_KEY: 'ä key' })).rejects.toThrow(/^OPENAI_API_KEY is no key: it may hold neither/);
    const engines = await engineFacts();
    const of = (id: string) => engines.filter((facts) => facts.id === id);
    expect(() => checkServers(of('comfyui'), [], () => undefined)).toThrow(
      /set the environment variable COMFYUI_URL to its address, such as http:\/\/127\.0\.0\.1:8188\.$/,
    );
    expect(() => checkServers(of('gemini'), [], () => undefined)).toThrow(/variable GEMINI_API_KEY to your key\.$/);
    const said: string[] = [];
    checkServers(of('comfyui'), await named({ COMFYUI_URL: 'lab:8188', COMFYUI_API_KEY: 'mine' }), (one) =>
      said.push(one),
    );
    expect(said).toEqual([
      expect.stringMatching(/^http:\/\/lab:8188: Your words, settings and pictures go to this server/),
    ]);
  });
});

describe('requests to them go through the server of the page', () => {
  const KEY = 'sk-a-key-that-nobody-may-find';
  const closing: (() => Promise<unknown>)[] = [];
  afterEach(() => Promise.all(closing.splice(0).map((close) => close())));

  async function passed(routes: Routes, key: string | null = KEY) {
    const fake = await FakeService.start(routes);
    fake.cors = 'none';
    const proxy = new ServerProxy();
    const { path, standIn } = proxy.add(`${fake.url}/v1`, key);
    const { url, close } = await serveFolder(folder, 0, proxy);
    closing.push(close, () => fake.stop());
    return { fake, url, base: `${url}${path}`, standIn: standIn ?? '' };
  }

  test('with the key in place of what stands in for it, and nothing that says who asks', async () => {
    const { fake, base, standIn } = await passed({
      'POST /v1/images': json(200, { ok: true }, { 'Set-Cookie': 'a=b' }),
    });
    expect(standIn).toHaveLength(KEY.length);
    expect(standIn).not.toBe(KEY);
    const answer = await fetch(`${base}/images?n=1`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${standIn}`,
        'content-type': 'text/plain',
        cookie: 'c=d',
        origin: 'http://evil',
      },
      body: '{"a":1}',
    });
    expect(await answer.json()).toEqual({ ok: true });
    expect(answer.headers.get('set-cookie')).toBeNull();
    expect(answer.headers.get('content-security-policy')).toContain('sandbox');
    const [heard] = fake.heard;
    expect(heard).toMatchObject({ method: 'POST', path: '/v1/images?n=1', body: Buffer.from('{"a":1}') });
    expect(heard.headers).toMatchObject({
      authorization: `Bearer ${KEY}`,
      'content-type': 'text/plain',
      'content-length': '7',
    });
    expect(Object.keys(heard.headers).filter((name) => /cookie|origin|referer|sec-/.test(name))).toEqual([]);
  });

  test('where a user and a password are the key, they are put into the header as servers read it', async () => {
    const { fake, base, standIn } = await passed({}, 'me:secret');
    await fetch(base, { headers: { authorization: `Basic ${btoa(standIn)}` } });
    expect(standIn).toMatch(/^[0-9a-f]{2}:[0-9a-f]{6}$/);
    expect(fake.heard[0].headers.authorization).toBe(`Basic ${btoa('me:secret')}`);
  });

  test('a server that repeats the key, in however many pieces, repeats what stands in for it', async () => {
    const text = `bad ${KEY}, ${KEY}${KEY.slice(0, 9)}`;
    const { base, standIn } = await passed({
      'GET /v1/x': (response) => {
        response.writeHead(401, { 'Content-Type': 'application/json', 'Content-Length': text.length });
        const send = (at: number) => {
          response.write(text.slice(at, at + 7), () => (at < text.length ? send(at + 7) : response.end()));
        };
        send(0);
      },
    });
    const answer = await fetch(`${base}/x`);
    expect(answer.status).toBe(401);
    expect(await answer.text()).toBe(`bad ${standIn}, ${standIn}${KEY.slice(0, 9)}`);
  });

  test('one that does not answer, or breaks off, is that to the page; a path that was not given out is nothing', async () => {
    const { fake, base, url } = await passed({
      'GET /v1/cut': (response) => {
        response.writeHead(200, { 'Content-Length': '100' });
        response.write('x', () => response.destroy());
      },
    });
    await expect(fetch(`${base}/cut`).then((answer) => answer.text())).rejects.toThrow();
    expect((await fetch(`${url}/servers/x/v1/cut`)).status).toBe(404);
    await fake.stop();
    await expect(fetch(`${base}/cut`)).rejects.toThrow();
  });
});
