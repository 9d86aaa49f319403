// Latents → RGB by a matrix, drawn straight to a canvas of the latents' size: a preview without read-back.

struct Preview {
  width: u32,
  height: u32,
  channels: u32,
  pad: u32,
  // Per latent channel its colour (rgb), then the constant colour; at most 16 channels.
  colours: array<vec4f, 17>,
}

@group(0) @binding(0) var<uniform> preview: Preview;
@group(0) @binding(1) var<storage, read> latents: array<f32>;

@vertex
fn corner(@builtin(vertex_index) index: u32) -> @builtin(position) vec4f {
  // One triangle that covers the whole canvas.
  return vec4f(f32(index & 1u) * 4.0 - 1.0, f32(index >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}

@fragment
fn colour(@builtin(position) position: vec4f) -> @location(0) vec4f {
  let column = min(u32(position.x), preview.width - 1u);
  let row = min(u32(position.y), preview.height - 1u);
  var rgb = preview.colours[preview.channels].rgb;
  for (var c = 0u; c < preview.channels; c++) {
    rgb += latents[(c * preview.height + row) * preview.width + column] * preview.colours[c].rgb;
  }
  return vec4f(clamp(rgb, vec3f(0.0), vec3f(1.0)), 1.0);
}
