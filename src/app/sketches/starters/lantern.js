// language: p5
// title.en: Paper lantern
// title.de: Papierlaterne
// about.en: A folded shape in space that turns; drag to look around
// about.de: Ein gefalteter Körper im Raum; ziehen, um ihn anzusehen

function setup() {
  createCanvas(windowWidth, windowHeight, WEBGL);
  colorMode(HSB, 360, 100, 100);
}

function draw() {
  background(265, 45, 14);
  orbitControl();
  ambientLight(265, 20, 45);
  pointLight(35, 60, 100, 0, 0, 0);
  directionalLight(20, 30, 80, 0.4, 0.6, -1);
  rotateY(frameCount * 0.006);
  noStroke();

  const size = min(width, height) * 0.3;
  const folds = 24;
  const rows = 12;
  // en: Rings of folded paper, one strip at a time
  // de: Ringe aus gefaltetem Papier, Streifen für Streifen
  for (let row = 0; row < rows; row++) {
    fill(12 + row * 3, 70, 95);
    beginShape(QUAD_STRIP);
    for (let fold = 0; fold <= folds * 2; fold++) {
      for (const edge of [row, row + 1]) {
        const down = (edge / rows) * PI;
        const breath = 1 + 0.06 * sin(frameCount * 0.03 + edge);
        const radius = size * sin(down) * (fold % 2 === 0 ? 1 : 0.86) * breath + size * 0.12;
        const angle = (fold / (folds * 2)) * TWO_PI + edge * 0.06;
        vertex(radius * cos(angle), -size * 1.15 * cos(down), radius * sin(angle));
      }
    }
    endShape();
  }
}
