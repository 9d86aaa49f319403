// weights += up · down, in place: what LoRAs add to a matrix. One invocation makes four columns of four rows. `weight` and `set_weight` come from
// the type of the weights.

struct Shape {
  rows: u32,
  // In fours.
  columns: u32,
  rank: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
// [rows, rank]
@group(0) @binding(1) var<storage, read> up: array<f32>;
// [rank, columns]
@group(0) @binding(2) var<storage, read> down: array<vec4f>;

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = 4u * id.y;
  if (id.x >= shape.columns || row >= shape.rows) {
    return;
  }
  let last = shape.rows - 1u;
  let first = row * shape.rank;
  let second = min(row + 1u, last) * shape.rank;
  let third = min(row + 2u, last) * shape.rank;
  let fourth = min(row + 3u, last) * shape.rank;
  var sums = array<vec4f, 4>();
  for (var i = 0u; i < shape.rank; i++) {
    let factors = down[i * shape.columns + id.x];
    sums[0] += up[first + i] * factors;
    sums[1] += up[second + i] * factors;
    sums[2] += up[third + i] * factors;
    sums[3] += up[fourth + i] * factors;
  }
  for (var k = 0u; k < 4u && row + k < shape.rows; k++) {
    let at = (row + k) * shape.columns + id.x;
    set_weight(at, weight(at) + sums[k]);
  }
}
