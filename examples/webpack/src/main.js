import { createDarkroom } from 'darkroom';

// A bundler moves the module, so it has to be said where the package's files are: build.mjs copies them beside the bundle.
const base = new URLSearchParams(location.search).get('base') ?? new URL('darkroom/', document.baseURI).href;
const darkroom = createDarkroom({ base, backend: 'wasm' });
const says = document.getElementById('says');

darkroom
  .run({
    operation: 'image_generation',
    config: 'stable_diffusion',
    parameters: { prompt: 'two red apples in a green meadow', seed: '42', width: 128, height: 128, steps: 2 },
  })
  .result.then(
    ({ pictures, seed }) => {
      const image = document.createElement('img');
      image.src = URL.createObjectURL(pictures[0]);
      image.alt = 'two red apples in a green meadow';
      document.body.append(image);
      says.textContent = `Done, seed ${seed}`;
    },
    (error) => (says.textContent = error.message),
  );
