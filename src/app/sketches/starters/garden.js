// language: p5
// title.en: Garden
// title.de: Garten
// about.en: Click or tap to let a plant grow
// about.de: Ein Klick lässt eine Pflanze wachsen

let plants = [];

function setup() {
  createCanvas(windowWidth, windowHeight);
  colorMode(HSB, 360, 100, 100, 100);
  for (let x = 0.15; x < 1; x += 0.175) {
    plants.push(newPlant(width * x));
  }
}

function draw() {
  background(50, 8, 96);
  for (const plant of plants) {
    plant.age = min(plant.age + 0.006, 1);
    push();
    translate(plant.x, height);
    branch(plant, plant.size, 0, plant.age * 8);
    pop();
  }
}

// en: A branch ends in two smaller ones, until it is time for a blossom
// de: Ein Zweig endet in zwei kleineren, bis es Zeit für eine Blüte ist
function branch(plant, length, depth, growth) {
  const part = constrain(growth - depth, 0, 1);
  if (part === 0) {
    return;
  }
  const sway = sin(frameCount * 0.015 + plant.x + depth) * 0.03;
  stroke(110 - depth * 6, 45, 30 + depth * 7);
  strokeWeight(max(1, 9 - depth * 1.6));
  line(0, 0, 0, -length * part);
  translate(0, -length * part);
  if (depth === 6) {
    noStroke();
    fill(plant.hue, 55, 95, 85);
    circle(0, 0, 12 * part);
    return;
  }
  for (const side of [-1, 1]) {
    push();
    rotate(side * (0.36 + plant.lean * side) + sway);
    branch(plant, length * 0.76, depth + 1, growth);
    pop();
  }
}

function newPlant(x) {
  return { x, age: 0, size: height * random(0.1, 0.17), hue: random([345, 20, 45, 280]), lean: random(-0.12, 0.12) };
}

function mousePressed() {
  plants.push(newPlant(mouseX));
  // en: The oldest makes room
  // de: Die älteste macht Platz
  plants = plants.slice(-9);
}
