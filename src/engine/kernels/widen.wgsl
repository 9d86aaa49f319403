// f16, two to a word → f32, without needing shader-f16. Infinity and NaN stay what they are, so that they are found later.

struct Widen {
  count: u32,
}

@group(0) @binding(0) var<uniform> widen: Widen;
@group(0) @binding(1) var<storage, read> halves: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= widen.count) {
    return;
  }
  let half = (halves[i / 2u] >> (16u * (i % 2u))) & 0xffffu;
  if ((half & 0x7c00u) == 0x7c00u) {
    // What unpack2x16float makes of these is not defined.
    out[i] = ((half & 0x8000u) << 16u) | 0x7f800000u | ((half & 0x3ffu) << 13u);
    return;
  }
  out[i] = bitcast<u32>(unpack2x16float(half).x);
}
