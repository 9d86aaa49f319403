/** A plot of two checkpoints: it goes on after a reload in its middle, is recorded when it is whole, and each of its cells opens its run. */
import { expect, test } from '@playwright/test';

test('checkpoints are compared in a grid that is broken off by a reload, recorded, and opened cell by cell', async ({
  page,
}, info) => {
  await page.goto('/?backend=wasm');
  await expect(page.getByRole('button', { name: /^Generate/ })).toBeEnabled();
  await page.getByRole('button', { name: 'Use Darkroom scenes, 4 steps Built in' }).click();
  await page.getByText('More settings').click();
  const field = (name: string) => page.getByRole('textbox', { name, exact: true });
  for (const [name, value] of Object.entries({ Prompt: 'a house', Width: '64', Height: '64', Steps: '8' })) {
    await field(name).fill(value);
  }
  await page.getByRole('radiogroup', { name: 'Upscale' }).getByText('Off').click();
  await page.getByLabel('Kind of guidance', { exact: true }).selectOption('Projected (APG)');
  await field('Guidance').fill('3');
  await field('Most that guidance adds').fill('5');

  await page.getByText('Compare values').click();
  await page.getByLabel('X axis', { exact: true }).selectOption('checkpoint');
  await page.getByLabel('Values of the X axis').fill('builtin:scenes, builtin:scenes-4-steps');
  await page.getByLabel('Y axis', { exact: true }).selectOption('seed');
  await page.getByLabel('Values of the Y axis').fill('7, 8');
  await page.getByRole('button', { name: 'Make 4 pictures of a plot' }).click();
  await expect(page.getByRole('heading', { name: 'Checkpoint × Seed' })).toBeVisible();
  await expect(page.getByText(/^.* · [1-3] of 4$/)).toBeVisible({ timeout: 120_000 });
  // In the middle of a cell: its job knows its run.
  await page.evaluate(async () => {
    const door = globalThis.darkroom;
    while (!(await door?.list())?.some(({ state, run }) => state === 'running' && run !== null)) {
      await new Promise((drawn) => requestAnimationFrame(drawn));
    }
  });
  await page.reload();
  await expect(page.getByText(/ · 4 of 4$/)).toBeVisible({ timeout: 180_000 });
  await expect(page.getByText('The grid is in the recordings')).toBeVisible();

  const cells = await page.evaluate(async () => {
    const runs = (await globalThis.darkroom?.runs({ limit: 9 })) ?? [];
    return runs
      .filter(({ operation }) => operation !== null)
      .map(({ operation }) => `${operation?.checkpoint} ${String(operation?.parameters.seed)}`)
      .sort();
  });
  expect(cells).toEqual([
    'builtin:scenes 7',
    'builtin:scenes 8',
    'builtin:scenes-4-steps 7',
    'builtin:scenes-4-steps 8',
  ]);

  // The recorded one, by itself: what the studio keeps of plots is closed.
  await page.getByRole('button', { name: 'Close it' }).click();
  await page.goto('/?backend=wasm#recordings');

  const runs = page.getByRole('grid', { name: 'Recorded runs' }).getByRole('button', { name: /^Show:/ });
  await expect(runs).toHaveCount(5);
  await runs.first().click();
  const details = page.getByRole('dialog');
  const cell = details.getByRole('button', { name: 'Show: Checkpoint: scenes, Seed: 8' });
  await expect(cell).toBeVisible();
  for (const [width, height] of [
    [1440, 900],
    [390, 844],
  ]) {
    await page.setViewportSize({ width, height });
    await cell.scrollIntoViewIfNeeded();
    await page.screenshot({ path: info.outputPath(`plot-${width}.png`) });
  }
  await cell.click();
  await expect(details.getByText('Darkroom scenes', { exact: true }).first()).toBeVisible();
  await expect(cell).toBeHidden();
  await expect(details.getByText('a house').first()).toBeVisible();
});
