/**
 * 3×3 convolutions on the processor with half the multiplications.
 *
 * Along its rows a convolution is Winograd's F(4, 3): six products for four neighbouring pixels of three taps in place of twelve. Six
 * combinations of neighbouring pixels are convolved by 3×1 kernels, each with its own combination of the taps, and then combined again.
 * Along both axes it would be a quarter of the multiplications, but four times the weights, six times the error and more memory
 * (docs/PROCESSOR.md).
 */
import type { ElementWriter } from './elements.ts';
import { picture } from './elements.ts';
import type { Value } from './onnx.ts';

/** Pixels that are computed together, and combinations of the six that they depend on. */
const [PIXELS, COMBINATIONS] = [4, 6];

/** Combinations of six neighbouring pixels; a row each. */
const INTO = [
  [4, 0, -5, 0, 1, 0],
  [0, -4, -4, 1, 1, 0],
  [0, 4, -4, -1, 1, 0],
  [0, -2, -1, 2, 1, 0],
  [0, 2, -1, -2, 1, 0],
  [0, 4, 0, -5, 0, 1],
];

/** What each of three taps counts in those; a row per tap. */
const TAPS = [
  [1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 0],
  [0, -1 / 6, 1 / 6, 1 / 12, -1 / 12, 0],
  [0, -1 / 6, -1 / 6, 1 / 6, 1 / 6, 1],
];

/** What each product counts in the four results; a row per product. The second counts once in all, so it carries the bias. */
const OUT_OF = [
  [1, 0, 0, 0],
  [1, 1, 1, 1],
  [1, -1, 1, -1],
  [1, 2, 4, 8],
  [1, -2, 4, -8],
  [0, 0, 0, 1],
];

/** With fewer channels the combining takes as long as it saves. */
const FEWEST_CHANNELS = 32;

/** The weights double, so they may be this large, or as large as the pictures; in bytes. */
const WEIGHT_BYTES = 2 ** 24;

/** What combinations of pixels and products may take together, in bytes: half as much again as both pictures. */
const BETWEEN_BYTES = 2 ** 29;

/** What they take at a time where there is more than one row: pictures are convolved in bands of rows, each with its neighbours above and below. */
const BAND_BYTES = 2 ** 24;

/** Whether {@link shortConv} is the faster way on the processor, and worth its memory. */
export function isShort(x: Value, out: number): boolean {
  const [n, c, h, w] = picture(x);
  const [weights, pictures] = [4 * 9 * c * out, 4 * n * h * w * (c + out)];
  return (
    Math.min(c, out) >= FEWEST_CHANNELS &&
    weights <= Math.max(WEIGHT_BYTES, pictures) &&
    (COMBINATIONS / PIXELS) * pictures <= BETWEEN_BYTES
  );
}

/**
 * A 3×3 convolution that keeps the picture's size, in f32. It counts as many operations as the reference's, so that rates and estimates hold.
 * @param weight [out, channels, 3, 3]
 * @param bias [out]
 * @param bandBytes see {@link BAND_BYTES}
 */
export function shortConv(
  g: ElementWriter,
  path: string,
  x: Value,
  out: number,
  weight: Value,
  bias: Value | null,
  bandBytes = BAND_BYTES,
): Value {
  const [n, c, h, w] = picture(x);
  const columns = Math.ceil(w / PIXELS);
  const height = Math.max(1, Math.floor(bandBytes / (4 * COMBINATIONS * n * (c + out) * columns)));
  const matrix = (name: string, rows: readonly number[][], dims: readonly number[]) =>
    g.reshape(`${path}/${name}`, g.constant(rows.flat(), 'f32'), dims);

  // Folded when the session is created.
  const taps = g.reshape(`${path}/taps`, weight, [out * c * 3, 3]);
  const combined = g.node(
    `${path}/taps/combined`,
    'MatMul',
    [taps, matrix('taps/shares', TAPS, [3, COMBINATIONS])],
    [out * c * 3, COMBINATIONS],
  );
  const kernel = g.reshape(`${path}/kernel`, g.transpose(`${path}/kernels`, combined, [1, 0]), [
    COMBINATIONS * out,
    c,
    3,
    1,
  ]);

  const biases = bias && [
    g.concat(`${path}/biases`, [g.fill(0, [out]), bias, g.fill(0, [(COMBINATIONS - 2) * out])], 0),
  ];

  const intoShares = matrix('into/shares', INTO, [COMBINATIONS, 1, 1, COMBINATIONS]);
  const outShares = matrix('out/shares', OUT_OF, [COMBINATIONS, PIXELS]);

  /** Rows of the result. */
  const band = (name: string, from: number, to: number): Value => {
    const [above, below] = [Math.min(from, 1), Math.min(h - to, 1)];
    const tall = above + to - from + below;
    const part = tall === h ? x : slice(g, `${name}/part`, x, 2, from - above, to + below);
    const rows = g.reshape(`${name}/rows`, part, [n, 1, c * tall, w]);
    const into = g.node(`${name}/into`, 'Conv', [rows, intoShares], [n, COMBINATIONS, c * tall, columns], {
      flops: 0,
      attributes: {
        kernel_shape: [1, COMBINATIONS],
        strides: [1, PIXELS],
        pads: [0, 1, 0, PIXELS * columns + 1 - w],
      },
    });
    const products = g.node(
      name,
      'Conv',
      [g.reshape(`${name}/into/pictures`, into, [n, COMBINATIONS * c, tall, columns]), kernel, ...(biases ?? [])],
      [n, COMBINATIONS * out, to - from, columns],
      {
        flops: 2 * 9 * n * c * out * (to - from) * w,
        attributes: { kernel_shape: [3, 1], strides: [1, 1], pads: [1 - above, 0, 1 - below, 0], group: COMBINATIONS },
      },
    );
    const results = g.split(`${name}/pictures`, products, Array<number>(n).fill(1), 0).map((one, index) => {
      const inputs = [
        g.reshape(`${name}/${index}/products`, one, [COMBINATIONS, out * (to - from) * columns]),
        outShares,
      ];
      const pixels = g.node(`${name}/${index}/pixels`, 'Gemm', inputs, [out * (to - from) * columns, PIXELS], {
        flops: 0,
        attributes: { transA: 1 },
      });
      return g.reshape(`${name}/${index}`, pixels, [1, out, to - from, PIXELS * columns]);
    });
    const joined = n === 1 ? results[0] : g.concat(`${name}/joined`, results, 0);
    return PIXELS * columns === w ? joined : slice(g, `${name}/cut`, joined, 3, 0, w);
  };

  if (height >= h) {
    return band(path, 0, h);
  }
  const bands = Array.from({ length: Math.ceil(h / height) }, (_, index) => {
    const from = index * height;
    return band(`${path}/band.${index}`, from, Math.min(h, from + height));
  });
  return g.concat(`${path}/bands`, bands, 2);
}

function slice(g: ElementWriter, name: string, x: Value, axis: number, from: number, to: number): Value {
  const range = [[from], [to], [axis]].map((values) => g.constant(values));
  const dims = x.dims.map((size, at) => (at === axis ? to - from : size));
  return g.node(name, 'Slice', [x, ...range], dims);
}
