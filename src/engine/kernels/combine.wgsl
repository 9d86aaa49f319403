// out[c · count + i] = a · x[i mod x_count] + b · y[i], repeated for every copy c: start noise, network inputs, decoder inputs.

struct Combine {
  count: u32,
  copies: u32,
  x_count: u32,
  y_count: u32,
  a: f32,
  b: f32,
}

@group(0) @binding(0) var<uniform> combine: Combine;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= combine.count) {
    return;
  }
  let value = combine.a * x[i % combine.x_count] + combine.b * y[i % combine.y_count];
  for (var c = 0u; c < combine.copies; c++) {
    out[c * combine.count + i] = value;
  }
}
