// f32 → f16, two to a word, without needing shader-f16. Out of range has no defined value, so the ends of the range are kept.

struct Narrow {
  count: u32,
}

@group(0) @binding(0) var<uniform> narrow: Narrow;
@group(0) @binding(1) var<storage, read> wide: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (2u * i >= narrow.count) {
    return;
  }
  var pair = vec2f(wide[2u * i], 0.0);
  if (2u * i + 1u < narrow.count) {
    pair.y = wide[2u * i + 1u];
  }
  out[i] = pack2x16float(clamp(pair, vec2f(-65504.0), vec2f(65504.0)));
}
