// language: p5
// title.en: Tide
// title.de: Gezeiten
// about.en: Lines of water under a low moon
// about.de: Linien aus Wasser unter tiefem Mond

function setup() {
  createCanvas(windowWidth, windowHeight);
  colorMode(HSB, 360, 100, 100, 100);
  noFill();
}

function draw() {
  background(225, 60, 12);
  const horizon = height * 0.35;

  // en: The moon, and the light around it
  // de: Der Mond und das Licht um ihn
  noStroke();
  for (let ring = 8; ring > 0; ring--) {
    fill(45, 18, 100, ring === 1 ? 100 : 4);
    circle(width / 2, horizon * 0.7, (height / 9) * (0.7 + ring * 0.3));
  }

  // en: Each wave is a line of noise; near ones are higher and faster
  // de: Jede Welle ist eine Linie aus Rauschen, nahe sind höher und schneller
  noFill();
  for (let wave = 0; wave < 42; wave++) {
    const near = wave / 41;
    stroke(205 + near * 25, 70 - near * 30, 35 + near * 60, 90);
    strokeWeight(0.8 + near * 1.6);
    beginShape();
    for (let x = -20; x <= width + 20; x += 12) {
      const swell = noise(x * 0.004, wave * 0.22, frameCount * 0.004 * (0.4 + near)) - 0.5;
      vertex(x, horizon + (height - horizon) * near ** 1.4 + swell * (14 + near * height * 0.22));
    }
    endShape();
  }
}

function windowResized() {
  resizeCanvas(windowWidth, windowHeight);
}
