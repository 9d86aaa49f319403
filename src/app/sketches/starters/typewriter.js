// language: p5
// title.en: Weather of letters
// title.de: Buchstabenwetter
// about.en: Type, and what you write falls as rain
// about.de: Schreib, und deine Worte fallen als Regen

let words = 'darkroom ';
let drops = [];

function setup() {
  createCanvas(windowWidth, windowHeight);
  textFont('monospace');
  textAlign(CENTER, CENTER);
  noStroke();
}

function draw() {
  background(18, 22, 30);
  if (frameCount % 2 === 0) {
    const letter = words[(frameCount / 2) % words.length];
    drops.push({ letter, x: random(width), y: -20, weight: random(0.4, 1) });
  }
  for (const drop of drops) {
    drop.y += 1.5 + drop.weight * 3;
    drop.x += sin(frameCount * 0.01 + drop.y * 0.01) * 0.6;
    fill(150 + 90 * drop.weight, 190 + 40 * drop.weight, 255, 255 * drop.weight);
    textSize(10 + 18 * drop.weight);
    text(drop.letter, drop.x, drop.y);
  }
  drops = drops.filter((drop) => drop.y < height + 30);
}

// en: Click into the picture first, then write
// de: Erst ins Bild klicken, dann schreiben
function keyTyped() {
  words = (words + key).slice(-40);
}
