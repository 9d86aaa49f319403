// Decoder output [batch, 3, height, width] in [−1, 1] → RGBA bytes, rounded to nearest even as numpy does.
// The last word of `out` counts values that are not finite: a picture of NaN must become an error, not black.

struct Pixels {
  plane: u32,   // height · width
  count: u32,   // batch · plane
}

@group(0) @binding(0) var<uniform> pixels: Pixels;
@group(0) @binding(1) var<storage, read> decoded: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<atomic<u32>>;

fn byte(value: f32) -> u32 {
  // NaN has all exponent bits set, as infinity has; comparisons may be optimised away, bits may not.
  if ((bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u) {
    atomicAdd(&out[pixels.count], 1u);
    return 0u;
  }
  return u32(round(clamp(value * 0.5 + 0.5, 0.0, 1.0) * 255.0));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= pixels.count) {
    return;
  }
  let at = (i / pixels.plane) * 3u * pixels.plane + i % pixels.plane;
  let r = byte(decoded[at]);
  let g = byte(decoded[at + pixels.plane]);
  let b = byte(decoded[at + 2u * pixels.plane]);
  atomicStore(&out[i], r | (g << 8u) | (b << 16u) | 0xff000000u);
}
