/** NovelAI: PNG texts `Software: NovelAI` and `Comment` (JSON), or the same texts hidden in the alpha channel. */
import { Fields } from '../fields.ts';
import { own, readJsonObject, textOf } from '../json.ts';
import { Findings } from '../findings.ts';
import type { Tool } from '../reading.ts';

const NAME = 'NovelAI';

/** In every picture, or details of other settings. */
const TOLD =
  /^(request_type|signed_hash|version|params_version|n_samples|legacy.*|hide_debug_overlay|add_original_image|controlnet_strength|lora_.*|dynamic_thresholding_.*|uncond_scale|uncond_per_vibe|wonky_vibe_correlation|reference_information_extracted.*|prefer_brownian|deliberate_euler_ancestral_bug|explike_fine_detail|minimize_sigma_inf|normalize_reference_strength_multiple|extra_noise_seed|cfg_sched_eligibility|use_order|use_coords|stream|image_format|autoSmea|qualityToggle|ucPreset|v4_negative_prompt|noise)$/;

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts }) {
    const json = texts.get('Software') === NAME ? readJsonObject(texts.get('Comment')) : null;
    if (!json) {
      return null;
    }
    const fields = new Fields(json);
    const v4 = own(fields.get('v4_prompt'), 'caption');
    const findings = new Findings(NAME, 'novelai')
      .prompt(fields.get('prompt') ?? own(v4, 'base_caption') ?? texts.get('Description'))
      .negativePrompt(
        fields.get('uc') ??
          fields.get('negative_prompt') ??
          own(own(json.v4_negative_prompt, 'caption'), 'base_caption'),
      )
      .steps(fields.get('steps'))
      .guidance(fields.get('scale'))
      .seed(fields.get('seed'))
      .size(fields.get('width'), fields.get('height'))
      .sampler(fields.get('sampler'), fields.get('noise_schedule'))
      .checkpoint(texts.get('Source'));
    const strength = fields.get('strength');
    if (/Img2Img|Infill/i.test(textOf(json.request_type) ?? '')) {
      findings.strength(strength).lost('the picture it started from');
    }
    findings
      .lostIf(own(v4, 'char_captions') ?? fields.get('characterPrompts'), 'the prompts of single characters')
      .lostIf(fields.get('cfg_rescale'), `guidance rescale ${textOf(fields.get('cfg_rescale')) ?? ''}`)
      .lostIf(fields.get('sm'), 'SMEA sampling')
      .lostIf(fields.get('sm_dyn'), 'SMEA sampling that changes on the way')
      .lostIf(fields.get('dynamic_thresholding'), 'decrisper')
      .lostIf(fields.get('skip_cfg_above_sigma'), 'that guidance began later')
      .lostIf(fields.get('skip_cfg_below_sigma'), 'that guidance ended early')
      .lostIf(fields.get('controlnet_model'), 'the ControlNet')
      .lostIf(fields.get('reference_strength_multiple') ?? fields.get('reference_strength'), 'the vibe pictures');
    fields.all(TOLD);
    return findings.unread(fields).reading();
  },
};
