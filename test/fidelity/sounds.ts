/** Whole sounds, from the prompt to the waveform: every folder of test/goldens/sounds, stable_audio_3 and music, run in Node. */
import { goldenCases, type GoldenCase } from '../golden_pictures.ts';
import { MUSIC, musicDifferences } from '../golden_music.ts';
import { SOUNDS, STABLE_AUDIO_3, soundDifferences, type SoundDifferences } from '../golden_sounds.ts';
import type { FidelityArea, FidelityCell } from './fidelity.ts';

const measured = new Map<string, Promise<SoundDifferences>>();

type Measure = (one: GoldenCase) => Promise<SoundDifferences>;

/** Latents and waveforms come from one run. */
function once(one: GoldenCase, measure: Measure): Promise<SoundDifferences> {
  const known = measured.get(one.name) ?? measure(one);
  measured.set(one.name, known);
  return known;
}

function cells(root: string, measure: Measure, part: keyof SoundDifferences): FidelityCell[] {
  return goldenCases(root).map((one) => ({
    at: [one.name, one.checkpoint, one.operation],
    difference: async () => (await once(one, measure))[part],
  }));
}

const columns = ['case', 'checkpoint', 'operation'];

export const areas: FidelityArea[] = [
  {
    title: 'Sounds: latents',
    about:
      "Stable Audio against diffusers on the CPU in f32 (`reference/audio_pipelines.py`), with weights that follow from a formula, in Node's ONNX Runtime: what the sampler leaves, in units of the spread of the expected latents. diffusers' pipeline runs all steps on a given sound; where a strength is given, its scheduler begins later, as those for pictures do. `e2e/sounds.spec.ts` compares in the browser.",
    columns,
    limit: 1e-3,
    cells: cells(SOUNDS, (one) => soundDifferences(SOUNDS, one), 'latents'),
  },
  {
    title: 'Sounds: waveforms',
    about: 'The same runs, decoded: the greatest difference of a sample, where full scale is 1.',
    columns,
    limit: 1e-3,
    cells: cells(SOUNDS, (one) => soundDifferences(SOUNDS, one), 'waveforms'),
  },
  {
    title: 'Stable Audio 3: latents',
    about:
      "Stable Audio 3 against diffusers on the CPU in f32 (`reference/stable_audio_3.py`), with weights that follow from a formula, in Node's ONNX Runtime: what the sampler leaves, in units of the spread of the expected latents. diffusers' pipelines for given sounds have no guidance; there its transformer is guided as by the pipeline for words alone. `e2e/sounds.spec.ts` compares in the browser.",
    columns,
    limit: 1e-3,
    cells: cells(STABLE_AUDIO_3, (one) => soundDifferences(STABLE_AUDIO_3, one), 'latents'),
  },
  {
    title: 'Stable Audio 3: waveforms',
    about: 'The same runs, decoded: the greatest difference of a sample, where full scale is 1.',
    columns,
    limit: 1e-3,
    cells: cells(STABLE_AUDIO_3, (one) => soundDifferences(STABLE_AUDIO_3, one), 'waveforms'),
  },
  {
    title: 'Music: latents',
    about:
      "ACE-Step 1.5 against diffusers on the CPU in f32 (`reference/music_pipelines.py`), with weights that follow from a formula, in Node's ONNX Runtime: what the sampler leaves, in units of the spread of the expected latents. What diffusers draws from no seed, the sample of a given sound's posterior, is drawn from the pipeline's generator there and here. `e2e/sounds.spec.ts` compares in the browser.",
    columns,
    limit: 1e-3,
    cells: cells(MUSIC, musicDifferences, 'latents'),
  },
  {
    title: 'Music: waveforms',
    about:
      'The same runs, decoded and brought to one loudness: the greatest difference of a sample, where full scale is 1.',
    columns,
    limit: 1e-3,
    cells: cells(MUSIC, musicDifferences, 'waveforms'),
  },
];
