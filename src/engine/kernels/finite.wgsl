// Adds to out[at] how many of `count` numbers are not finite: latents of NaN may still decode to something that looks like a picture.

struct Finite {
  count: u32,
  at: u32,
}

@group(0) @binding(0) var<uniform> finite: Finite;
@group(0) @binding(1) var<storage, read> values: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= finite.count) {
    return;
  }
  // As in pixels.wgsl: bits, because comparisons with NaN may be optimised away.
  if ((values[i] & 0x7f800000u) == 0x7f800000u) {
    atomicAdd(&out[finite.at], 1u);
  }
}
