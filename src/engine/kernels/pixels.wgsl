// Decoder output [batch, planes, height, width] in [−1, 1], of which a fourth plane is opacity → RGBA bytes, rounded to nearest even as numpy does.
// Behind the pixels `out` counts values that are not finite, and says whether any is not zero: neither a picture of NaN nor a buffer that
// nothing was written to may pass for black or grey.

struct Pixels {
  plane: u32,   // height · width
  count: u32,   // batch · plane
  planes: u32,  // 3, or 4
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
  let at = (i / pixels.plane) * pixels.planes * pixels.plane + i % pixels.plane;
  let r = byte(decoded[at]);
  let g = byte(decoded[at + pixels.plane]);
  let b = byte(decoded[at + 2u * pixels.plane]);
  var opacity = 255u;
  if (pixels.planes == 4u) {
    opacity = byte(decoded[at + 3u * pixels.plane]);
  }
  let any = bitcast<u32>(decoded[at]) | bitcast<u32>(decoded[at + pixels.plane]) | bitcast<u32>(decoded[at + 2u * pixels.plane]);
  if ((any & 0x7fffffffu) != 0u && atomicLoad(&out[pixels.count + 1u]) == 0u) {
    atomicStore(&out[pixels.count + 1u], 1u);
  }
  atomicStore(&out[i], r | (g << 8u) | (b << 16u) | (opacity << 24u));
}
