/** Describes what else a graph did to its picture: known nodes by their type, unknown ones by their title. */
import { loraName } from '../../core/loras.ts';
import { numberOf, textOf } from '../json.ts';
import { shown } from '../findings.ts';
import { literal, upstreamOf, type Graph, type Node } from './graph.ts';
import type { Routes } from './routes.ts';
import { isSampler } from './samplers.ts';

type Phrase = string | ((node: Node) => string | null);

/** The first match wins. */
const KINDS: readonly (readonly [type: RegExp, phrase: Phrase])[] = [
  [/save|preview|^note$/i, () => null],
  [/^CreateHook(Lora|Model)/, hookPhrase],
  [/loader|Canny|Preprocessor|DepthAnything|OpenPose|LineArt|HED|union.*type/i, loaderPhrase],
  [/controlnet|control_?lora|FunControl|t2iadapter|LLLite/i, 'a ControlNet'],
  [/ipadapter|instantid|pulid|photomaker|ecomid|faceid|UNO|DreamO/i, 'a picture that guided it'],
  [/unCLIPConditioning|StyleModel|ReferenceLatent|Redux|StyleReference|ReferenceImages/, 'a picture that guided it'],
  [/^TextEncode.*(Edit|Omni)/, (node) => (hasPicture(node) ? 'a picture that guided it' : null)],
  [/GLIGEN|SetArea|SetMask|Regional|AttentionCouple/i, 'prompts for parts of the picture'],
  [/SetTimestepRange/, 'the steps that each prompt was for'],
  [/SetLatentNoiseMask|ForInpaint|InpaintModelConditioning|InpaintConditioning/i, 'the mask'],
  [
    /facedetailer|detailerforeach|segsdetailer|masktosegs.*detail|detailer/i,
    'the pass that repainted faces or details',
  ],
  [/reactor|faceswap|face_swap/i, 'the face that was put in'],
  [/facerestore|codeformer|gfpgan/i, 'the repaired faces'],
  [/UpscaleWithModel|UltimateSDUpscale|SUPIR|SeedVR|Upscaler|UpscaleUsingModel/i, 'the enlarging at the end'],
  [/HighRes-?Fix/i, 'the high-resolution pass'],
  [/XY ?Plot|XYPlot/i, 'the grid of variations'],
  [/AnimateDiff|^ADE_/i, 'the motion model'],
  [/ModelMerge|MergeModel|CheckpointMerge/i, 'the merging with another checkpoint'],
  [/Hypernetwork/i, (node) => `the hypernetwork ${shown(literal(node, 'hypernetwork_name'))}`],
  [/ModelSampling|SigmaShift|^shift/i, 'how its noise levels were shifted'],
  [
    /RescaleCFG|RenormCFG|CFGNorm|CFGZero|DynamicThreshold|CFGOverride|AutomaticCFG|APG$|TCFG|Mahiro/i,
    'how its guidance was changed',
  ],
  [
    /PerturbedAttention|SelfAttentionGuidance|SkipLayerGuidance|NAGuidance|NAGCFG|SpatioTemporalGuidance/i,
    'a second kind of guidance',
  ],
  [/PerpNeg|DualCFG/i, 'a second kind of guidance'],
  [/FreeU/i, 'FreeU'],
  [/AddDownscale|DeepShrink|HyperTile|HiDiffusion/i, 'what kept a large picture from repeating itself'],
  [/Tome|EasyCache|LazyCache|TeaCache|FirstBlock|WaveSpeed|DeepCache/i, 'a shortcut that made it faster'],
  [/styler|stylesselector|stylesselect|prompt.*styles/i, stylePhrase],
  [/VariationSeed|NoiseInject|InjectNoise|UnsamplerLatent|Noise Control/i, 'noise that was mixed in'],
];

/** Nodes without effect on the picture, or described elsewhere. */
const KNOWN =
  /encode|decode|loader|lora|checkpoint|latent|sampl|scheduler|sigma|guider|guidance|noise|load ?(image|video|audio)|primitive|reroute|string|text|prompt|seed|concat|combine|conditioning|pipe|context|switch|int|float|number|math|ratio|resolution|size|video|audio|save|preview|display|show|clip|torchcompile|sageattn|patch.*attention|attention.*patch|blockswap|offload|dtype|multigpu|device|purge|clean|differentialdiffusion|constant|any|wildcard|flux|reference|stack/i;
const AFTERWARDS =
  /scale|resize|crop|upscale|blend|color|sharpen|blur|grain|filter|lut|remb?g|background|composite|watermark|overlay|invert|rotate|flip|pad|adjust|image|frame|interpolat|rife|film/i;

/**
 * @param chain the samplers of the picture, the last pass first
 * @param passed the nodes between the sampler and its checkpoint
 * @param read nodes whose settings are all taken over
 */
export function nameRemainder(
  graph: Graph,
  routes: Routes,
  chain: readonly Node[],
  passed: readonly Node[],
  lost: (what: string) => void,
  read: readonly Node[] = [],
): void {
  const after = routes.downstream(chain[0]);
  const before = upstreamOf(graph, chain);
  const used = upstreamOf(graph, [...after, ...chain]);
  for (const node of used) {
    const found = KINDS.find(([type]) => type.test(node.type));
    if (read.includes(node)) {
      continue;
    } else if (found) {
      const phrase = typeof found[1] === 'string' ? found[1] : found[1](node);
      if (phrase !== null) {
        lost(phrase);
      }
    } else if (isSampler(node) || chain.includes(node)) {
      continue;
    } else if (after.has(node) && !before.has(node)) {
      nameAfter(node, lost);
    } else if (passed.includes(node) && !KNOWN.test(node.type)) {
      lost(`what the node "${shown(node.title ?? node.type)}" changed`);
    }
  }
  nameAmounts(used, lost);
}

function nameAfter(node: Node, lost: (what: string) => void): void {
  if (/interpolat|rife|film/i.test(node.type)) {
    lost('the frames that were put in between');
  } else if (/(image|latent).*(scale|resize|crop)|scale.*image|resize|upscale/i.test(node.type)) {
    lost('the change of size at the end');
  } else if (AFTERWARDS.test(node.type) && !KNOWN.test(node.type)) {
    lost('the editing afterwards');
  } else if (!KNOWN.test(node.type) && routesPicture(node)) {
    lost(`what the node "${shown(node.title ?? node.type)}" changed`);
  }
}

/** Counts and lengths that empty-latent nodes have beside the size. */
function nameAmounts(used: ReadonlySet<Node>, lost: (what: string) => void): void {
  // Split checkpoints need one; it replaces a whole checkpoint's own.
  const hasOwnVae = [...used].some((one) => /Checkpoint/i.test(one.type) || one.inputs.has('ckpt_name'));
  for (const node of used) {
    const number = (name: string) => numberOf(literal(node, name)) ?? 0;
    if (number('batch_size') > 1 && !/loader|encode/i.test(node.type)) {
      lost(`its place among the ${number('batch_size')} made at once`);
    }
    const frames = Math.max(number('length'), number('num_frames'), number('video_frames'));
    if (frames > 1 && /video|latent|wan/i.test(node.type)) {
      lost(`its length of ${frames} frames`);
    }
    if (number('seconds') > 0 && /audio|latent/i.test(node.type)) {
      lost(`its length of ${number('seconds')} seconds`);
    }
    if (number('variation_strength') > 0) {
      lost('the variation seed');
    }
    if (number('clip_skip') < -1 || number('base_clip_skip') < -2) {
      lost('clip skip');
    }
    const refiner = textOf(literal(node, 'refiner_ckpt_name'));
    if (refiner !== undefined && !/^none$/i.test(refiner)) {
      lost('the refiner');
    }
    const vae = textOf(literal(node, 'vae_name'));
    if (vae !== undefined && hasOwnVae && !/^(baked.?vae|none|automatic)$/i.test(vae)) {
      lost(`the VAE ${shown(vae)}`);
    }
  }
}

function loaderPhrase({ type }: Node): string | null {
  return /HypernetworkLoader/i.test(type)
    ? 'the hypernetwork'
    : /UpscaleModelLoader/i.test(type)
      ? 'the enlarging at the end'
      : null;
}

function hookPhrase(node: Node): string {
  const name = textOf(literal(node, 'lora_name') ?? literal(node, 'ckpt_name'));
  return `the LoRA ${shown(loraName(name ?? ''))}, which changed a part of it only`;
}

function stylePhrase(node: Node): string | null {
  const name = ['select_styles', 'style', 'style_name', 'styles']
    .map((one) => literal(node, one))
    .find((one) => one !== undefined);
  const style = textOf(name);
  return style === undefined || /^(none|no style|base|\[\])$/i.test(style)
    ? null
    : `the words of the style ${shown(style)}`;
}

function hasPicture(node: Node): boolean {
  return [...node.inputs].some(([name, input]) => 'link' in input && /^image|images/i.test(name));
}

function routesPicture(node: Node): boolean {
  return [...node.inputs].some(([name, input]) => 'link' in input && /image|pixels|samples|latent/i.test(name));
}
