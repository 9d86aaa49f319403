/** Whole sounds, from the prompt to the waveform: every folder of test/goldens/sounds, test/goldens/music and test/goldens/heartmula, run in Node. */
import { goldenCases, type GoldenCase } from '../golden_pictures.ts';
import { SONGS, songDifferences, type SongDifferences } from '../golden_heart.ts';
import { MUSIC, musicDifferences } from '../golden_music.ts';
import { SOUNDS, soundDifferences } from '../golden_sounds.ts';
import type { FidelityArea, FidelityCell } from './fidelity.ts';

const measured = new Map<string, Promise<unknown>>();

/** All parts of a case come from one run. */
function once<Differences>(one: GoldenCase, measure: (one: GoldenCase) => Promise<Differences>): Promise<Differences> {
  const known = (measured.get(one.name) as Promise<Differences> | undefined) ?? measure(one);
  measured.set(one.name, known);
  return known;
}

function cells<Differences>(
  root: string,
  measure: (one: GoldenCase) => Promise<Differences>,
  part: keyof Differences & string,
): FidelityCell[] {
  return goldenCases(root).map((one) => ({
    at: [one.name, one.checkpoint, one.operation],
    difference: async () => (await once(one, measure))[part] as number,
  }));
}

const songs = (part: keyof SongDifferences): FidelityCell[] => cells(SONGS, songDifferences, part);

const columns = ['case', 'checkpoint', 'operation'];

export const areas: FidelityArea[] = [
  {
    title: 'Sounds: latents',
    about:
      "Stable Audio against diffusers on the CPU in f32 (`reference/audio_pipelines.py`), with weights that follow from a formula, in Node's ONNX Runtime: what the sampler leaves, in units of the spread of the expected latents. diffusers' pipeline runs all steps on a given sound; where a strength is given, its scheduler begins later, as those for pictures do. `e2e/sounds.spec.ts` compares in the browser.",
    columns,
    limit: 1e-3,
    cells: cells(SOUNDS, soundDifferences, 'latents'),
  },
  {
    title: 'Sounds: waveforms',
    about: 'The same runs, decoded: the greatest difference of a sample, where full scale is 1.',
    columns,
    limit: 1e-3,
    cells: cells(SOUNDS, soundDifferences, 'waveforms'),
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
  {
    title: 'Songs written frame by frame: codes',
    about:
      "HeartMuLa against heartlib's own code on the CPU in f32 (`reference/heartmula.py`), with weights that follow from a formula, in Node's ONNX Runtime: how many of all codes of a song are others, drawn by torch's generator from one seed.",
    columns,
    limit: 0,
    cells: songs('codes'),
  },
  {
    title: 'Songs written frame by frame: latents',
    about:
      "The same runs through HeartCodec's flow, seeded anew: every fourth latent of each part, every eighth channel, in units of their spread.",
    columns,
    limit: 1e-3,
    cells: songs('latents'),
  },
  {
    title: 'Songs written frame by frame: waveforms',
    about:
      'The same runs, decoded: the greatest difference of a sample, where full scale is 1. Of long songs every 16th or 32nd sample is compared.',
    columns,
    limit: 1e-3,
    cells: songs('waveforms'),
  },
];
