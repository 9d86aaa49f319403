import { createDarkroom } from 'darkroom';
import { DarkroomImage } from 'darkroom/element';

// A bundler moves the module, so it has to be said where the package's files are: vite.config.js serves and copies them here.
const base = new URLSearchParams(location.search).get('base') ?? new URL('darkroom/', document.baseURI).href;
DarkroomImage.darkroom = createDarkroom({ base, backend: 'wasm' });

const image = document.querySelector('darkroom-image');
const says = document.getElementById('says');
image.addEventListener('result', ({ detail }) => (says.textContent = `Done, seed ${detail.seed}`));
image.addEventListener('error', ({ detail }) => (says.textContent = detail.message));
image.setAttribute('prompt', 'two red apples in a green meadow');
