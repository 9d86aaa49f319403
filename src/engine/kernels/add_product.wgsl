// weights += up · down, in place: what LoRAs add to a matrix. One invocation makes four columns of eight rows, so that two loads of `up` and one of
// `down` serve 32 numbers. `weight` and `set_weight` come from the type of the weights.

struct Shape {
  rows: u32,
  // In fours.
  columns: u32,
  rank: u32,
  // Of `up`, in fours.
  up_rows: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
// [rank, rows], filled up to fours of rows with zeros
@group(0) @binding(1) var<storage, read> up: array<vec4f>;
// [rank, columns]
@group(0) @binding(2) var<storage, read> down: array<vec4f>;

fn add(row: u32, column: u32, sum: vec4f) {
  if (row < shape.rows) {
    let at = row * shape.columns + column;
    set_weight(at, weight(at) + sum);
  }
}

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let four = 2u * id.y;
  if (id.x >= shape.columns || four >= shape.up_rows) {
    return;
  }
  let next = min(four + 1u, shape.up_rows - 1u);
  var a = vec4f();
  var b = vec4f();
  var c = vec4f();
  var d = vec4f();
  var e = vec4f();
  var f = vec4f();
  var g = vec4f();
  var h = vec4f();
  for (var i = 0u; i < shape.rank; i++) {
    let factors = down[i * shape.columns + id.x];
    let first = up[i * shape.up_rows + four];
    let second = up[i * shape.up_rows + next];
    a += first.x * factors;
    b += first.y * factors;
    c += first.z * factors;
    d += first.w * factors;
    e += second.x * factors;
    f += second.y * factors;
    g += second.z * factors;
    h += second.w * factors;
  }
  let row = 4u * four;
  add(row, id.x, a);
  add(row + 1u, id.x, b);
  add(row + 2u, id.x, c);
  add(row + 3u, id.x, d);
  if (next > four) {
    add(row + 4u, id.x, e);
    add(row + 5u, id.x, f);
    add(row + 6u, id.x, g);
    add(row + 7u, id.x, h);
  }
}
