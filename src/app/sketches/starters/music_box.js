// language: tonejs
// title.en: Music box
// title.de: Spieluhr
// about.en: Two loops of different length that never meet in the same way
// about.de: Zwei verschieden lange Schleifen, die sich nie gleich treffen

const room = new Tone.Reverb({ decay: 5, wet: 0.4 }).toDestination();
const comb = new Tone.PolySynth(Tone.FMSynth, {
  harmonicity: 3,
  modulationIndex: 6,
  envelope: { attack: 0.002, decay: 0.9, sustain: 0, release: 1.2 },
  modulationEnvelope: { attack: 0.002, decay: 0.3, sustain: 0, release: 0.3 },
  volume: -16,
}).connect(room);

// en: Seven notes against five; both keep to the same scale
// de: Sieben Töne gegen fünf, beide aus derselben Tonleiter
const high = ['E5', 'G5', 'A5', 'D6', 'B5', 'A5', 'G5'];
const low = ['C4', 'G4', 'E4', 'A4', 'D4'];

new Tone.Sequence((time, note) => comb.triggerAttackRelease(note, '16n', time, 0.7), high, '4n').start(0);
new Tone.Sequence((time, note) => comb.triggerAttackRelease(note, '8n', time, 0.5), low, '2n').start('8n');

Tone.getTransport().bpm.value = 84;
Tone.getTransport().start();
