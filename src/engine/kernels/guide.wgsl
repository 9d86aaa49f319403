// A mixture of each picture's two predictions, with weights of its own (src/guidance).

struct Guide {
  total: u32,       // elements of all pictures
  count: u32,       // of one
  cond_offset: u32, // first element of the prompt's prediction in `cond`
}

@group(0) @binding(0) var<uniform> guide: Guide;
@group(0) @binding(1) var<storage, read> uncond: array<f32>;
@group(0) @binding(2) var<storage, read> cond: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= guide.total) {
    return;
  }
  let weight = weights[i / guide.count];
  out[i] = weight.x * cond[guide.cond_offset + i] + weight.y * uncond[i];
}
