// Sums over the numbers of each picture's two predictions: Σc, Σu, Σc², Σcu, Σu². One workgroup for each picture.

struct Moments {
  count: u32,       // numbers of one picture
  cond_offset: u32, // first element of the prompt's prediction in `cond`
}

@group(0) @binding(0) var<uniform> moments: Moments;
@group(0) @binding(1) var<storage, read> uncond: array<f32>;
@group(0) @binding(2) var<storage, read> cond: array<f32>;
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;

var<workgroup> firsts: array<vec4f, 64>;
var<workgroup> lasts: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = group.x * moments.count;
  var first = vec4f(0.0);
  var last = 0.0;
  for (var i = lane; i < moments.count; i += 64u) {
    let c = cond[moments.cond_offset + start + i];
    let u = uncond[start + i];
    first += vec4f(c, u, c * c, c * u);
    last += u * u;
  }
  firsts[lane] = first;
  lasts[lane] = last;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half /= 2u) {
    if (lane < half) {
      firsts[lane] += firsts[lane + half];
      lasts[lane] += lasts[lane + half];
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    let at = group.x * 5u;
    sums[at] = firsts[0].x;
    sums[at + 1u] = firsts[0].y;
    sums[at + 2u] = firsts[0].z;
    sums[at + 3u] = firsts[0].w;
    sums[at + 4u] = lasts[0];
  }
}
