/** Prompt syntax, and whose implementation a picture follows. */
import { join } from 'node:path';
import { expect, test } from '@playwright/test';

const TINY = join(import.meta.dirname, '../../test/checkpoints/tiny-sd15');

for (const viewport of [
  { width: 390, height: 844 },
  { width: 1440, height: 900 },
]) {
  test(`what a prompt asks for beside its words is shown, kept and done, at ${viewport.width} pixels`, async ({
    page,
  }, info) => {
    await page.setViewportSize(viewport);
    await page.goto('/');
    await expect(page.getByRole('button', { name: /^Generate/ })).toBeEnabled();
    await page.getByTestId('checkpoint-folder').setInputFiles(TINY);
    await expect(page.getByText('tiny-sd15', { exact: true })).toBeVisible();
    await page.getByText('More settings').click();
    const field = (name: string) => page.getByLabel(name, { exact: true });

    // A mistake is marked where it is, and the page previews what the seed will draw.
    await field('Prompt').fill('a (castle:1.4) and {a dragon|a fox}, [neon lights');
    await expect(page.getByText('The bracket "[" at character 38 is never closed')).toBeVisible();
    await expect(
      page.getByText(/^With the seed \d+: a \(castle:1\.4\) and a (dragon|fox), \[neon lights$/),
    ).toBeVisible();
    await field('Prompt').fill('a (castle:1.4) and {a dragon|a fox}, [neon lights:rain:0.5] AND a ladder :0.5');
    await expect(page.getByText(/is never closed/)).toBeHidden();

    for (const [name, value] of Object.entries({ Width: '64', Height: '64', Steps: '4', Seed: '7' })) {
      await field(name).fill(value);
    }
    await field('Noise').selectOption('nv');
    await field('Follows').selectOption('comfyui');
    await field('Sampler').selectOption('dpmpp_sde');
    await field('Clip skip').fill('2');
    await field('Variation').fill('0.2');
    await field('Seed of the variation').fill('9');
    await field('Seed offset of steps (ENSD)').fill('31337');
    await field('Noise').scrollIntoViewIfNeeded();
    await expect
      .poll(() => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth))
      .toBeLessThanOrEqual(0);
    await page.screenshot({ path: info.outputPath('settings.png'), fullPage: true });

    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('status')).toContainText('The picture is ready', { timeout: 150_000 });
    await expect(
      page.getByText(/The seed drew this prompt: "a \(castle:1\.4\) and a (dragon|fox), \[neon/),
    ).toBeVisible();
  });
}
