// One sampling step: guidance, the predicted clean latents, the update, the inpainting blend and the next network
// input, in one pass over the latents. The coefficients come from a sampler file (src/samplers); the same arithmetic
// on plain arrays is src/samplers/apply.ts.

struct Step {
  count: u32,            // elements of x: batch · channels · height · width
  copies: u32,           // how many times the next input repeats x (2 for batched guidance)
  cond_offset: u32,      // first element of the conditional prediction in `cond`
  guided: u32,           // 0: m = cond, 1: m = uncond + guidance · (cond − uncond)
  guidance: f32,
  denoised_x: f32,       // x0 = denoised_x · x + denoised_model · m
  denoised_model: f32,
  next_x: f32,           // x' = next_x · x + next_model · m + Σ history[k] · H[k]
  next_model: f32,
  remember_x: f32,       // pushed to the history: remember_x · x + remember_model · m
  remember_model: f32,
  next_input: f32,       // scale of x' as the network's next input
  history: vec4f,
  history_length: u32,   // slots in the ring; 0 = no history
  history_head: u32,     // slot of H[0]
  push: u32,
  blend: u32,            // 1: x' = mask · x' + (1 − mask) · (blend_image · image + blend_noise · noise)
  blend_image: f32,
  blend_noise: f32,
  fresh_noise: f32,      // x' also gets fresh_noise · noise
  next_negative: f32,    // and next_negative · u
  remember_history: vec4f, // what is pushed also gets Σ remember_history[k] · H[k]
  remember_negative: f32,  // and remember_negative · u
}

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> uncond: array<f32>;
@group(0) @binding(3) var<storage, read> cond: array<f32>;
@group(0) @binding(4) var<storage, read_write> history: array<f32>;
@group(0) @binding(5) var<storage, read_write> denoised: array<f32>;
@group(0) @binding(6) var<storage, read_write> next_input: array<f32>;
// image | noise | mask, `count` elements each; one element where nothing is blended.
@group(0) @binding(7) var<storage, read> blend: array<f32>;

// Standard normal, `count` elements; one element where the step adds no noise.
@group(0) @binding(8) var<storage, read> noise: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= step.count) {
    return;
  }
  let before = x[i];
  var m = cond[step.cond_offset + i];
  var u = m;
  if (step.guided == 1u) {
    u = uncond[i];
    m = u + step.guidance * (m - u);
  }
  denoised[i] = step.denoised_x * before + step.denoised_model * m;
  var after = step.next_x * before + step.next_model * m + step.next_negative * u;
  var kept = step.remember_x * before + step.remember_model * m + step.remember_negative * u;
  for (var k = 0u; k < step.history_length; k++) {
    // Slots that were not written yet hold nothing that may be read.
    if (step.history[k] != 0.0 || step.remember_history[k] != 0.0) {
      let remembered = history[((step.history_head + k) % step.history_length) * step.count + i];
      after += step.history[k] * remembered;
      kept += step.remember_history[k] * remembered;
    }
  }
  if (step.fresh_noise != 0.0) {
    after += step.fresh_noise * noise[i];
  }
  if (step.push == 1u) {
    let slot = (step.history_head + step.history_length - 1u) % step.history_length;
    history[slot * step.count + i] = kept;
  }
  if (step.blend == 1u) {
    let mask = blend[2u * step.count + i];
    let keep = step.blend_image * blend[i] + step.blend_noise * blend[step.count + i];
    after = mask * after + (1.0 - mask) * keep;
  }
  x[i] = after;
  for (var c = 0u; c < step.copies; c++) {
    next_input[c * step.count + i] = step.next_input * after;
  }
}
