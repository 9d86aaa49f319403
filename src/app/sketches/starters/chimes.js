// language: p5
// title.en: Wind chimes
// title.de: Windspiel
// about.en: p5 draws, Tone sounds; touch the bars
// about.de: p5 zeichnet, Tone klingt; die Stäbe berühren

const notes = ['C4', 'D4', 'E4', 'G4', 'A4', 'C5', 'D5', 'E5', 'G5'];
let bars = [];
let bells;

function setup() {
  createCanvas(windowWidth, windowHeight);
  const room = new Tone.Reverb({ decay: 6, wet: 0.5 }).toDestination();
  bells = new Tone.PolySynth(Tone.Synth, {
    oscillator: { type: 'sine' },
    envelope: { attack: 0.005, decay: 1.6, sustain: 0, release: 1 },
    volume: -14,
  }).connect(room);
  bars = notes.map((note, n) => ({ note, share: (n + 1) / (notes.length + 1), ring: 0 }));
}

function draw() {
  background(24, 44, 52);
  // en: Now and then the wind strikes one
  // de: Ab und zu schlägt der Wind einen an
  if (random() < 0.015) {
    strike(random(bars));
  }
  strokeCap(ROUND);
  for (const bar of bars) {
    bar.ring *= 0.97;
    const x = width * bar.share + sin(frameCount * 0.9) * bar.ring * 5;
    const length = height * (0.72 - bar.share * 0.36);
    stroke(130, 160, 160, 120);
    strokeWeight(1);
    line(width / 2, -40, x, height * 0.1);
    stroke(lerpColor(color(196, 148, 92), color(255, 236, 170), bar.ring));
    strokeWeight(min(18, width / 28));
    line(x, height * 0.1, x, height * 0.1 + length);
  }
}

function strike(bar) {
  bar.ring = 1;
  bells.triggerAttackRelease(bar.note, '2n');
}

// en: A bar sounds when the pointer crosses it
// de: Ein Stab klingt, wenn der Zeiger ihn kreuzt
function mouseMoved() {
  const touched = bars.find((bar) => abs(mouseX - width * bar.share) < 12 && bar.ring < 0.4);
  if (touched) {
    strike(touched);
  }
}

function mouseDragged() {
  mouseMoved();
}

function windowResized() {
  resizeCanvas(windowWidth, windowHeight);
}
