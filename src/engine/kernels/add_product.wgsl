// weights += up · down, in place: what LoRAs add to a matrix. One invocation makes eight rows of two times four columns, so that two loads of `up` and two of
// `down` serve 64 numbers. `weight` and `set_weight` come from the type of the weights.

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

// Between an invocation's columns, so that neighbours read and write what lies side by side.
const APART = 16u;

fn add(row: u32, column: u32, left: vec4f, right: vec4f) {
  if (row < shape.rows) {
    let at = row * shape.columns + column;
    set_weight(at, weight(at) + left);
    if (column + APART < shape.columns) {
      set_weight(at + APART, weight(at + APART) + right);
    }
  }
}

@compute @workgroup_size(16, 4)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let columns = shape.columns;
  let up_rows = shape.up_rows;
  let column = 2u * APART * group.x + local.x;
  let four = 2u * (4u * group.y + local.y);
  if (column >= columns || four >= up_rows) {
    return;
  }
  // Where there is no second one, the first is computed twice and not written.
  let right = select(0u, APART, column + APART < columns);
  let below = select(0u, 1u, four + 1u < up_rows);
  var a0 = vec4f();
  var a1 = vec4f();
  var b0 = vec4f();
  var b1 = vec4f();
  var c0 = vec4f();
  var c1 = vec4f();
  var d0 = vec4f();
  var d1 = vec4f();
  var e0 = vec4f();
  var e1 = vec4f();
  var f0 = vec4f();
  var f1 = vec4f();
  var g0 = vec4f();
  var g1 = vec4f();
  var h0 = vec4f();
  var h1 = vec4f();
  for (var i = 0u; i < shape.rank; i++) {
    let x = down[i * columns + column];
    let y = down[i * columns + column + right];
    let first = up[i * up_rows + four];
    let second = up[i * up_rows + four + below];
    a0 += first.x * x;
    a1 += first.x * y;
    b0 += first.y * x;
    b1 += first.y * y;
    c0 += first.z * x;
    c1 += first.z * y;
    d0 += first.w * x;
    d1 += first.w * y;
    e0 += second.x * x;
    e1 += second.x * y;
    f0 += second.y * x;
    f1 += second.y * y;
    g0 += second.z * x;
    g1 += second.z * y;
    h0 += second.w * x;
    h1 += second.w * y;
  }
  let row = 4u * four;
  add(row, column, a0, a1);
  add(row + 1u, column, b0, b1);
  add(row + 2u, column, c0, c1);
  add(row + 3u, column, d0, d1);
  if (below > 0u) {
    add(row + 4u, column, e0, e1);
    add(row + 5u, column, f0, f1);
    add(row + 6u, column, g0, g1);
    add(row + 7u, column, h0, h1);
  }
}
