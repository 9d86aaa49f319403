// A sample of the encoder's Gaussian posterior, scaled: (mean + exp(½ · clamp(logvar, −30, 20)) · noise) · scale.
// `moments` is mean ‖ logvar along the channels of one picture. diffusers: models/autoencoders/vae.py, DiagonalGaussianDistribution.

struct Posterior {
  count: u32,
  scale: f32,
}

@group(0) @binding(0) var<uniform> posterior: Posterior;
@group(0) @binding(1) var<storage, read> moments: array<f32>;
@group(0) @binding(2) var<storage, read> noise: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= posterior.count) {
    return;
  }
  let deviation = exp(0.5 * clamp(moments[posterior.count + i], -30.0, 20.0));
  out[i] = (moments[i] + deviation * noise[i]) * posterior.scale;
}
