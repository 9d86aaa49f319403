// language: tonejs
// title.en: Night train
// title.de: Nachtzug
// about.en: A beat of wheels, a bass, and chords that pass by
// about.de: Der Takt der Räder, ein Bass und Akkorde, die vorbeiziehen

const hall = new Tone.Reverb({ decay: 3, wet: 0.3 }).toDestination();
const wheels = new Tone.NoiseSynth({
  noise: { type: 'brown' },
  envelope: { attack: 0.002, decay: 0.09, sustain: 0 },
  volume: -14,
}).connect(new Tone.Filter(900, 'bandpass').toDestination());
const bass = new Tone.MonoSynth({
  oscillator: { type: 'triangle' },
  envelope: { attack: 0.01, decay: 0.3, sustain: 0.3, release: 0.2 },
  filterEnvelope: { attack: 0.01, decay: 0.2, sustain: 0.2, baseFrequency: 90, octaves: 3 },
  volume: -14,
}).toDestination();
const lights = new Tone.PolySynth(Tone.AMSynth, {
  envelope: { attack: 0.6, decay: 0.4, sustain: 0.6, release: 1.6 },
  volume: -20,
}).connect(hall);

// en: ta-tam, ta-tam: strong beats are louder
// de: ta-tam, ta-tam: betonte Schläge sind lauter
new Tone.Sequence(
  (time, force) => wheels.triggerAttackRelease('32n', time, force),
  [0.5, 1, null, null, 0.4, 0.9, null, null],
  '16n',
).start(0);
new Tone.Sequence(
  (time, note) => bass.triggerAttackRelease(note, '8n', time),
  ['A1', null, 'A2', 'E2', 'F1', null, 'F2', 'C2'],
  '4n',
).start(0);
new Tone.Sequence(
  (time, chord) => lights.triggerAttackRelease(chord, '1n', time),
  [
    ['A3', 'C4', 'E4'],
    ['A3', 'C4', 'F4'],
    ['G3', 'C4', 'E4'],
    ['G3', 'B3', 'D4'],
  ],
  '1n',
).start(0);

Tone.getTransport().bpm.value = 104;
Tone.getTransport().start();
