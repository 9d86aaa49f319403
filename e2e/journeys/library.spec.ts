/** Getting, keeping and sharing checkpoints on the library page, against a local hub behind the real host names. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test as base, type Locator, type Page, type TestInfo } from '@playwright/test';
import { BUILTIN_CHECKPOINTS } from '../../src/core/builtin_checkpoints.ts';
import { chromiumFlags, findChromium } from '../../cli/chromium.js';
import { CHECKPOINTS } from '../fixtures/door.ts';
import { WorkingComfyUi } from '../../test/working_comfyui.ts';
import { COMMIT, Hub, filesOf } from '../fixtures/hub.ts';

const PHONE = { width: 390, height: 844 };
const DESKTOP = { width: 1440, height: 900 };
const TINY = join(CHECKPOINTS, 'tiny-sd15');
const OPEN = 'someone/tiny-sd15';
const RESTRICTED = 'someone/with-conditions';
const GATED = 'someone/gated';
const PICKLED = 'someone/pickled';
const ONE_FILE = 'someone/one-file';
const SINGLE = join(CHECKPOINTS, '..', 'single_files', 'sd1.safetensors');
const LORAS = 'someone/styles';
const LORA = join(CHECKPOINTS, '..', 'goldens', 'lora', 'kohya.safetensors');
const FLUX_LORA = join(CHECKPOINTS, '..', 'goldens', 'flow_loras', 'flux1-kohya.safetensors');

interface Journey {
  hub: Hub;
}

/** Every journey ends without an error from the page. */
const test = base.extend<object, Journey>({
  hub: [
    // eslint-disable-next-line no-empty-pattern -- Playwright wants a pattern, and it needs no fixture
    async ({}, use) => {
      const hub = await Hub.start();
      const files = filesOf(TINY);
      hub.repositories.set(OPEN, { files });
      hub.repositories.set(RESTRICTED, { files, card: { license: 'creativeml-openrail-m' } });
      hub.repositories.set(GATED, { files, gated: 'auto' });
      hub.repositories.set(LORAS, {
        files: new Map([
          ['README.md', Buffer.from('# Styles')],
          ['styles/kohya.safetensors', readFileSync(LORA)],
          ['styles/flux.safetensors', readFileSync(FLUX_LORA)],
          [
            'styles/other.safetensors',
            readFileSync(join(CHECKPOINTS, 'tiny-turbo', 'text_encoder', 'model.safetensors')),
          ],
        ]),
        card: { license: 'creativeml-openrail-m' },
      });
      hub.repositories.set(ONE_FILE, { files: new Map([['sd1.safetensors', readFileSync(SINGLE)]]) });
      hub.repositories.set(PICKLED, { files: new Map([['pytorch_model.bin', Buffer.from('pickle')]]) });
      await use(hub);
      await hub.stop();
    },
    { scope: 'worker' },
  ],
  launchOptions: [
    async ({ hub }, use) => {
      await use({ executablePath: findChromium(), args: [...chromiumFlags(), ...hub.flags] });
    },
    { scope: 'worker' },
  ],
  page: async ({ page, hub }, use) => {
    hub.begin();
    const troubles: string[] = [];
    page.on('pageerror', (error) => troubles.push(error.message));
    page.on('console', (message) => {
      if (message.text().includes('Content Security Policy')) {
        troubles.push(message.text());
      }
    });
    await use(page);
    expect(troubles).toEqual([]);
  },
});

class LibraryPage {
  readonly field: Locator;
  readonly look: Locator;
  readonly status: Locator;

  constructor(readonly page: Page) {
    this.field = page.getByRole('textbox', { name: 'Name or address' });
    this.look = page.getByRole('button', { name: 'Look', exact: true });
    this.status = page.getByRole('status');
  }

  async open(): Promise<void> {
    await this.page.goto('/?backend=wasm#library');
    await this.started();
  }

  /** Until then the checkpoint that opens by itself may be told over what a test did. */
  async started(): Promise<void> {
    await expect(this.card(BUILTIN_CHECKPOINTS[0].name).getByRole('link', { name: 'In use' })).toBeVisible();
  }

  /** The card of something stored, on disk or built in. */
  card(name: string): Locator {
    return this.page.getByRole('listitem', { name, exact: true });
  }

  async ask(name: string): Promise<Locator> {
    await this.field.fill(name);
    await this.look.click();
    return this.page.getByRole('region', { name, exact: true });
  }

  async get(name: string): Promise<void> {
    const sheet = await this.ask(name);
    await sheet.getByRole('button', { name: /^Download/ }).click();
  }

  async draw(prompt: string): Promise<void> {
    const { page } = this;
    await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill(prompt);
    const steps = page.getByRole('textbox', { name: 'Steps', exact: true });
    if (!(await steps.isVisible())) {
      await page.getByText('More settings').click();
    }
    for (const [field, value] of Object.entries({ Width: '64', Height: '64', Steps: '2' })) {
      await page.getByRole('textbox', { name: field, exact: true }).fill(value);
    }
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('figure').getByRole('img').first()).toHaveAttribute('alt', prompt, {
      timeout: 120_000,
    });
  }

  async photograph(info: TestInfo, name: string): Promise<void> {
    await info.attach(name, {
      body: await this.page.screenshot({ path: info.outputPath(`${name}.png`), fullPage: true }),
      contentType: 'image/png',
    });
  }
}

/** The folder picker always returns a folder of this name in the page's own file system. */
async function pickByItself(page: Page, name: string): Promise<void> {
  await page.addInitScript((folder) => {
    Object.assign(window, {
      showDirectoryPicker: async () =>
        (await navigator.storage.getDirectory()).getDirectoryHandle(folder, { create: true }),
    });
  }, name);
}

for (const [device, viewport] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
  test.describe(device, () => {
    // The last part of the journey is offline, from a cold start.
    test.use({ viewport, serviceWorkers: 'allow', colorScheme: device === 'phone' ? 'dark' : 'light' });

    test('look, accept, download, draw, come back without a network, delete', async ({ page, context }, info) => {
      const library = new LibraryPage(page);
      await library.open();
      const sheet = await library.ask(RESTRICTED);
      await expect(sheet).toContainText(`From the hub, at ${COMMIT.slice(0, 7)}`);
      await expect(sheet).toContainText('Stable Diffusion');
      await expect(sheet.getByRole('definition').nth(1)).toContainText(/^[\d.]+ million$/);
      await expect(sheet.getByRole('definition').nth(2)).toContainText(/^[\d.]+ MB$/);
      const variants = sheet.getByRole('group', { name: 'Keep it as' }).getByRole('radio');
      await expect(variants).toHaveCount(3);
      await expect(variants.first()).toBeChecked();
      await expect(sheet).toContainText('is what Darkroom suggests');
      await expect(sheet).toContainText(/by a short measurement of this device/);
      await sheet.getByRole('combobox').selectOption('256 × 256');
      await library.photograph(info, `look-${device}`);

      const download = sheet.getByRole('button', { name: /^Download/ });
      await download.press('Enter');
      await expect(library.status).toHaveText('Accept the licence first.');
      await sheet.getByRole('checkbox', { name: 'I have read the licence and accept it.' }).check();
      await download.click();
      const card = library.card(RESTRICTED);
      await expect(card.getByRole('button', { name: `Use ${RESTRICTED}`, exact: true })).toBeEnabled();
      await expect(card).toContainText('Full precision · here since today · not used yet');
      await library.photograph(info, `stored-${device}`);

      await card.getByRole('button', { name: `Use ${RESTRICTED}`, exact: true }).click();
      const checkpoint = page.getByRole('region', { name: 'Checkpoint' });
      await expect(checkpoint).toContainText('Stored here, full precision');
      await library.draw('with a network');

      await page.evaluate(() => navigator.serviceWorker.ready);
      await context.setOffline(true);
      await page.reload();
      await expect(checkpoint).toContainText(RESTRICTED);
      await library.draw('without one');
      await context.setOffline(false);

      await checkpoint.getByRole('link', { name: 'Library' }).click();
      await expect(card.getByRole('link', { name: 'In use' })).toBeVisible();
      await expect(card).toContainText('last used today · 2 pictures made with it');
      await card.getByRole('button', { name: /^Delete/ }).click();
      await card.getByRole('button', { name: 'Keep' }).click();
      await expect(card.getByRole('button', { name: /^Delete …/ })).toBeFocused();
      await card.getByRole('button', { name: /^Delete/ }).click();
      await card.getByRole('button', { name: 'Delete', exact: true }).click();
      await expect(card).toBeHidden();
      await expect(library.card(BUILTIN_CHECKPOINTS[0].name).getByRole('link', { name: 'In use' })).toBeVisible();
      // The licence stays accepted.
      await expect(await library.ask(RESTRICTED)).toContainText('You accepted its licence.');
    });
  });
}

test('a download is paused, outlasts its tab, is seen by another one, and goes on', async ({ page, context, hub }) => {
  const library = new LibraryPage(page);
  await library.open();
  const sheet = await library.ask(OPEN);
  await expect(sheet.getByRole('button', { name: /^Download/ })).toBeVisible();
  const hold = hub.holdAfter(2_000_000);
  await sheet.getByRole('button', { name: /^Download/ }).click();
  await hold.reached;
  const card = library.card(OPEN);
  await expect(card.getByRole('progressbar')).toBeVisible();
  // Work goes on in the studio meanwhile.
  await page.getByRole('link', { name: 'Studio', exact: true }).click();
  await expect(page.getByRole('banner')).toContainText(`Fetching ${OPEN}`);

  const other = new LibraryPage(await context.newPage());
  await other.open();
  await expect(other.card(OPEN)).toContainText('Another tab does this.');
  await other
    .card(OPEN)
    .getByRole('button', { name: `Pause ${OPEN}` })
    .click();
  await expect(other.card(OPEN)).toContainText(/Paused at \d+ %/);
  await expect(page.getByRole('banner')).not.toContainText('Fetching');
  hold.go();

  await other.page.close();
  await page.reload();
  await page.getByRole('link', { name: 'Library', exact: true }).first().click();
  await library.started();
  await expect(card).toContainText(/Paused at \d+ %: .* are here/);
  await card.getByRole('button', { name: `Resume ${OPEN}` }).click();
  await expect(card.getByRole('button', { name: `Use ${OPEN}`, exact: true })).toBeEnabled();
  await expect(library.status).toHaveText(`${OPEN} is stored.`);

  await card.getByRole('button', { name: `Verify ${OPEN}` }).click();
  await expect(card).toContainText('Verified just now: every byte is as it should be.');
  await page.getByRole('link', { name: 'Studio', exact: true }).click();
  await page.getByRole('list', { name: 'Other checkpoints' }).getByRole('button', { name: OPEN }).click();
  await expect(page.getByRole('region', { name: 'Checkpoint' })).toContainText('Stored here');
});

test('verify finds a wrong byte, and repair fetches that piece anew', async ({ page, hub }) => {
  const library = new LibraryPage(page);
  await library.open();
  await library.get(OPEN);
  const card = library.card(OPEN);
  await card.getByRole('button', { name: `Verify ${OPEN}` }).click();
  await expect(card).toContainText('Verified just now');
  await spoil(page);
  await card.getByRole('button', { name: `Verify ${OPEN}` }).click();
  await expect(card).toContainText('Some of its bytes are not what they should be.');
  await expect(card.getByRole('button', { name: `Use ${OPEN}`, exact: true })).toBeHidden();
  hub.recount();
  await card.getByRole('button', { name: `Repair ${OPEN}` }).click();
  await expect(card.getByRole('button', { name: `Use ${OPEN}`, exact: true })).toBeEnabled();
  expect(hub.asked).toBeGreaterThan(0);
  expect(hub.asked).toBeLessThan(9_000_000);
});

/** Changes the largest piece in the store without changing its length. */
function spoil(page: Page): Promise<void> {
  return page.evaluate(async () => {
    const answer = <T>(request: IDBRequest<T>) =>
      new Promise<T>((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error ?? new Error('no answer'));
      });
    const database = await answer(indexedDB.open('darkroom-library'));
    const [name = ''] = database.objectStoreNames;
    const keys = await answer(database.transaction(name).objectStore(name).getAllKeys());
    let largest: [IDBValidKey, Blob] | undefined;
    for (const key of keys) {
      const value: unknown = await answer(database.transaction(name).objectStore(name).get(key));
      if (value instanceof Blob && value.size > (largest?.[1].size ?? 0)) {
        largest = [key, value];
      }
    }
    if (!largest) {
      throw new Error('there is no piece in the store');
    }
    const bytes = new Uint8Array(await largest[1].arrayBuffer());
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
    await answer(
      database
        .transaction(name, 'readwrite')
        .objectStore(name)
        .put(new Blob([bytes]), largest[0]),
    );
    database.close();
  });
}

test('nobody is asked anything before somebody presses', async ({ page, context, baseURL }) => {
  const asked: string[] = [];
  context.on('request', (request) => {
    const { origin, protocol, host } = new URL(request.url());
    if (origin !== baseURL && protocol.startsWith('http')) {
      asked.push(host);
    }
  });
  const library = new LibraryPage(page);
  await library.open();
  await expect(page.getByRole('heading', { name: 'Good ones to begin with' })).toBeVisible();
  await expect(page.getByText(/could not be checked/).first()).toBeVisible();
  await library.field.fill(OPEN);
  expect(asked).toEqual([]);
  await expect((await library.ask(OPEN)).getByRole('button', { name: /^Download/ })).toBeVisible();
  expect(new Set(asked)).toEqual(new Set(['huggingface.co', 'cdn-lfs.hf.co']));
});

test('eight bits, a LoRA over them, and a checkpoint of one file are got on the page and make pictures', async ({
  page,
}) => {
  const library = new LibraryPage(page);
  await library.open();
  const sheet = await library.ask(OPEN);
  await sheet.getByRole('radio', { name: /^8-bit/ }).check();
  await sheet.getByRole('button', { name: /^Download/ }).click();
  const card = library.card(OPEN);
  await expect(card.getByRole('button', { name: `Use ${OPEN}`, exact: true })).toBeVisible();
  await expect(card).toContainText('8-bit');

  const shelf = page.getByRole('region', { name: 'LoRAs' });
  const get = async (path: string) => {
    await shelf.getByRole('textbox', { name: 'Where the LoRA or ControlNet is' }).fill(LORAS);
    await shelf.getByRole('button', { name: 'Look for a LoRA' }).click();
    const found = shelf.getByRole('group', { name: `LoRA or ControlNet of ${LORAS}` });
    await found.getByRole('combobox', { name: 'File' }).selectOption(path);
    return found;
  };
  const flux = await get('styles/flux.safetensors');
  await expect(flux).toContainText(/It is for FLUX\.1, and “.+”, which is open in the studio, is Stable Diffusion/);
  const wrong = await get('styles/other.safetensors');
  await expect(wrong).toContainText('styles/other.safetensors is not a LoRA');
  await wrong.getByRole('button', { name: 'Get this file' }).click();
  await expect(library.status).toHaveText('Accept the licence first.');
  await wrong.getByRole('checkbox', { name: 'I have read the licence and accept it.' }).check();
  await wrong.getByRole('button', { name: 'Get this file' }).click();
  await expect(page.getByRole('alert')).toContainText('styles/other.safetensors is not a LoRA; if it is a checkpoint');
  await (await get('styles/kohya.safetensors')).getByRole('button', { name: 'Get this file' }).click();
  await expect(shelf.getByRole('listitem', { name: 'kohya', exact: true })).toContainText('creativeml-openrail-m');

  await card.getByRole('button', { name: `Use ${OPEN}`, exact: true }).click();
  await page.locator('summary', { hasText: 'LoRAs' }).click();
  await page.getByRole('checkbox', { name: 'kohya' }).check();
  await library.draw('a boat in eight bits');
  const made = await page.evaluate(async () => {
    const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
    return run?.entities.find(({ type }) => type === 'output_image')?.metadata;
  });
  expect(made).toMatchObject({
    weights: 'q8',
    loras: [{ lora: `lora:hub:${LORAS}@${COMMIT}/styles/kohya.safetensors`, name: 'kohya', weight: 1 }],
  });

  await page.goto('/?backend=wasm#library');
  const one = await library.ask(ONE_FILE);
  await one.getByRole('button', { name: /^Download/ }).click();
  await library
    .card(ONE_FILE)
    .getByRole('button', { name: `Use ${ONE_FILE}`, exact: true })
    .click();
  await expect(page.getByText(/^The LoRA kohya is used without/)).toBeVisible();
  await library.draw('a boat in one file');
});

test('a card of the catalogue leads to the same look', async ({ page }) => {
  const library = new LibraryPage(page);
  await library.open();
  const offer = page.getByRole('region', { name: 'Good ones to begin with' }).getByRole('listitem').first();
  await offer.getByRole('button', { name: /^Get …/ }).click();
  // This hub has none of them.
  await expect(page.getByText(/There is no public repository/).first()).toBeVisible();
  await page.getByRole('button', { name: 'Put away' }).click();
  await expect(library.field).toBeFocused();
});

test('what fits in no way is offered from another machine, after one was entered there', async ({
  page,
  hub,
}, info) => {
  const repo = 'stable-diffusion-v1-5/stable-diffusion-v1-5';
  hub.repositories.set(repo, { files: filesOf(TINY) });
  const server = await WorkingComfyUi.start(1000);
  try {
    const library = new LibraryPage(page);
    await library.open();
    await page.evaluate(() => globalThis.darkroom?.planWith(2 ** 20));
    const sheet = await library.ask(repo);
    await expect(
      sheet.getByText('None of these fits here. “Stable Diffusion 1.5 on ComfyUI” can make it on another machine.'),
    ).toBeVisible();
    for (const [name, size] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
      await page.setViewportSize(size);
      await library.photograph(info, `elsewhere-${name}`);
    }
    await sheet.getByRole('button', { name: 'Enter a server' }).click();
    await page.getByRole('textbox', { name: 'Address' }).fill(server.url);
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await expect(page.getByRole('article').filter({ hasText: server.url }).getByText('answers')).toBeVisible();
    await page.getByRole('link', { name: 'Library' }).click();
    await (await library.ask(repo)).getByRole('button', { name: 'Make it there' }).click();
    await expect(
      page
        .getByRole('combobox', { name: 'Where' })
        .or(page.getByRole('combobox', { name: 'What to make it with' }))
        .first(),
    ).toHaveValue('comfyui_sd15');
  } finally {
    await server.kill();
  }
});

test('what cannot be had gets one sentence each, and a next step', async ({ page, hub }, info) => {
  const library = new LibraryPage(page);
  await library.open();
  const malformed: [string, RegExp][] = [
    ['', /^Type where the checkpoint is/],
    ['no-slash', /"no-slash" is not a name like org\/name/],
    ['http://models.example.org/x/', /begin with https:\/\//],
    ['https://huggingface.co/datasets/a/b', /does not lead to a model/],
  ];
  for (const [text, sentence] of malformed) {
    await library.field.fill(text);
    await library.look.click();
    await expect(library.field).toHaveAccessibleDescription(sentence);
  }

  const missing = await library.ask('nobody/nothing');
  await expect(missing).toContainText('There is no public repository "nobody/nothing" on the hub; check its spelling');
  await expect(library.status).toContainText('There is no public repository');
  await library.photograph(info, 'missing');
  await expect(await library.ask(`${OPEN}@gone`)).toContainText('has no revision "gone"');
  await expect(await library.ask(PICKLED)).toContainText('a pickle that can run code; choose a checkpoint with');
  await expect(missing).toBeHidden();

  const elsewhere = await library.ask('https://models.example.org/school/');
  await expect(elsewhere).toContainText('This page may not speak to models.example.org');

  const sheet = await library.ask(OPEN);
  await expect(sheet.getByRole('button', { name: /^Download/ })).toBeVisible();
  hub.fault = ({ path, response }) => {
    if (!path.endsWith('.safetensors')) {
      return false;
    }
    response
      .writeHead(200, { 'Content-Type': 'text/html' })
      .end('<!doctype html><title>Sign in to this network</title>');
    return true;
  };
  await sheet.getByRole('button', { name: /^Download/ }).click();
  await expect(library.card(OPEN)).toContainText(/web page instead of .*; check the address/);
  await expect(library.card(OPEN).getByRole('button', { name: `Resume ${OPEN}` })).toBeVisible();
});

test('a gated repository is explained, opens with a token, and the token is kept only on request', async ({ page }) => {
  const library = new LibraryPage(page);
  await library.open();
  const sheet = await library.ask(GATED);
  await expect(sheet).toContainText('Its owners want to know who fetches it');
  await expect(sheet.getByRole('link', { name: 'its page on the hub' })).toHaveAttribute(
    'href',
    `https://huggingface.co/${GATED}`,
  );
  await expect(sheet.getByRole('button', { name: /^Download/ })).toBeHidden();

  const token = page.getByRole('textbox', { name: 'Token', exact: true });
  await page.getByText('Hub token').click();
  await token.fill('hf_right');
  await sheet.getByRole('button', { name: 'Look again' }).click();
  await expect(sheet.getByRole('button', { name: /^Download/ })).toBeVisible();

  await page.reload();
  await page.getByText('Hub token').click();
  await expect(token).toHaveValue('');
  await token.fill('hf_right');
  await page.getByRole('checkbox', { name: 'Keep it on this device' }).check();
  await expect(page.getByText('Hub token (kept on this device)')).toBeVisible();
  await page.reload();
  await expect(token).toHaveValue('hf_right');
  expect(await whatIsKept(page)).toEqual({ isReadable: false, isExtractable: false });
  await page.getByRole('button', { name: 'Forget the token' }).click();
  await expect(token).toHaveValue('');
  await page.reload();
  await page.getByText('Hub token').click();
  await expect(token).toHaveValue('');
});

/** Whether the token is stored in the clear, and whether its key can be extracted. */
function whatIsKept(page: Page): Promise<{ isReadable: boolean; isExtractable: boolean }> {
  return page.evaluate(async () => {
    const opened = indexedDB.open('darkroom-kept');
    const database = await new Promise<IDBDatabase>((resolve) => {
      opened.onsuccess = () => resolve(opened.result);
    });
    const read = database.transaction('kept').objectStore('kept').get('hub-token');
    const { key, text } = await new Promise<{ key: CryptoKey; text: ArrayBuffer }>((resolve) => {
      read.onsuccess = () => resolve(read.result as { key: CryptoKey; text: ArrayBuffer });
    });
    database.close();
    const open = new TextDecoder().decode(text) + JSON.stringify({ ...localStorage, ...sessionStorage });
    return { isReadable: open.includes('hf_right'), isExtractable: key.extractable };
  });
}

test.describe('folders', () => {
  test('what one browser exports another imports, without a network', async ({ page, context }) => {
    await pickByItself(page, 'stick');
    const library = new LibraryPage(page);
    await library.open();
    await library.get(OPEN);
    const card = library.card(OPEN);
    await card.getByRole('button', { name: `Export … ${OPEN}` }).click();
    await expect(card).toContainText('Exported to the folder "stick".');
    await card.getByRole('button', { name: /^Delete/ }).click();
    await card.getByRole('button', { name: 'Delete', exact: true }).click();
    await expect(card).toBeHidden();

    await context.setOffline(true);
    await page.getByText('Import a folder …').click();
    await expect(card.getByRole('button', { name: `Use ${OPEN}`, exact: true })).toBeEnabled();
    await expect(card).toContainText(`From the hub, at ${COMMIT.slice(0, 7)} · licence: apache-2.0`);
    await context.setOffline(false);
    await card.getByRole('button', { name: `Use ${OPEN}`, exact: true }).click();
    await library.draw('from a stick');

    // The same folder, read in place.
    await page.getByRole('link', { name: 'Library', exact: true }).first().click();
    await page.getByRole('region', { name: 'On your disk' }).getByText('Open a folder …').click();
    await expect(page.getByRole('region', { name: 'Checkpoint' })).toContainText('From your disk');
    await page.reload();
    await page.getByRole('link', { name: 'Library', exact: true }).first().click();
    const folder = library.card('stick');
    await expect(folder).toContainText('Last opened today');
    await folder.getByRole('button', { name: 'Open stick' }).click();
    await expect(page.getByRole('region', { name: 'Checkpoint' })).toContainText('From your disk');
    await page.getByRole('link', { name: 'Library', exact: true }).first().click();
    await expect(folder.getByRole('link', { name: 'In use' })).toBeVisible();
    await folder.getByRole('button', { name: /^Take off this list/ }).click();
    await expect(folder).toBeHidden();
  });

  test('a plain folder is imported through a file input; one without weights gets one sentence', async ({ page }) => {
    const library = new LibraryPage(page);
    await library.open();
    await page.getByTestId('import-folder').setInputFiles(TINY);
    const card = library.card('tiny-sd15');
    await expect(card.getByRole('button', { name: 'Use tiny-sd15', exact: true })).toBeEnabled();
    await expect(card).toContainText('Read in from a folder');
    await page.getByTestId('import-folder').setInputFiles(join(TINY, 'scheduler'));
    await expect(page.getByRole('alert')).toContainText('holds no weights');
  });
});

test('the browser is asked to keep what is stored, and its answer is told', async ({ page }) => {
  const library = new LibraryPage(page);
  await library.open();
  await expect(page.getByText(/The browser says that about .* more would fit/)).toBeVisible();
  await page.getByRole('button', { name: 'Keep what is stored' }).click();
  await expect(page.getByText(/The browser (promised to keep it|did not promise it now)/)).toBeVisible();
});

test('the memory that somebody names is planned with, also after a reload', async ({ page }) => {
  const library = new LibraryPage(page);
  await library.open();
  const memory = page.getByRole('region', { name: 'Memory' }).getByRole('combobox');
  await memory.selectOption('2 GiB');
  await expect(await library.ask(OPEN)).toContainText('You said to plan with 2.0 GiB of memory.');
  await page.reload();
  await expect(memory).toHaveValue('2');
});
