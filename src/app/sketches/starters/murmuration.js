// language: p5
// title.en: Murmuration
// title.de: Vogelschwarm
// about.en: Birds that watch their neighbours, and your pointer
// about.de: Vögel achten auf ihre Nachbarn und auf deinen Zeiger

let birds = [];

function setup() {
  createCanvas(windowWidth, windowHeight);
  for (let n = 0; n < 160; n++) {
    birds.push({ at: createVector(random(width), random(height)), speed: p5.Vector.random2D().mult(2) });
  }
  background(243, 226, 205);
}

function draw() {
  // en: A veil over the last frame leaves a trail
  // de: Ein Schleier über dem letzten Bild lässt eine Spur
  background(243, 226, 205, 28);
  stroke(60, 40, 70, 170);
  for (const bird of birds) {
    const steer = createVector(0, 0);
    for (const other of birds) {
      const gap = p5.Vector.sub(other.at, bird.at);
      const distance = gap.mag();
      if (other !== bird && distance < 60) {
        // en: Fly as they fly, towards them, but not into them
        // de: Fliegen wie sie, zu ihnen hin, aber nicht in sie hinein
        steer.add(p5.Vector.sub(other.speed, bird.speed).mult(0.012));
        steer.add(gap.mult(distance < 22 ? -0.012 : 0.0012));
      }
    }
    const centre = mouseIsPressed || mouseX > 0 ? createVector(mouseX, mouseY) : createVector(width / 2, height / 2);
    steer.add(p5.Vector.sub(centre, bird.at).limit(0.05));
    bird.speed.add(steer.limit(0.25)).limit(3.4);
    bird.at.add(bird.speed);
    strokeWeight(2.2);
    line(bird.at.x, bird.at.y, bird.at.x - bird.speed.x * 2, bird.at.y - bird.speed.y * 2);
  }
}

function windowResized() {
  resizeCanvas(windowWidth, windowHeight);
}
