/** NovelAI: PNG texts `Software: NovelAI` and `Comment` (JSON), or the same texts hidden in the alpha channel. */
import { isObject, own, readJsonObject, textOf } from '../json.ts';
import { Findings, type Tool } from '../reading.ts';

const NAME = 'NovelAI';

export const tool: Tool = {
  name: NAME,
  turn: 'own',
  read({ texts }) {
    const json = texts.get('Software') === NAME ? readJsonObject(texts.get('Comment')) : null;
    if (!json) {
      return null;
    }
    const findings = new Findings(NAME)
      .prompt(json.prompt ?? texts.get('Description'))
      .negativePrompt(json.uc)
      .steps(json.steps)
      .guidance(json.scale)
      .seed(json.seed)
      .size(json.width, json.height)
      .sampler(json.sampler, json.noise_schedule)
      .checkpoint(texts.get('Source'));
    if (/Img2Img|Infill/i.test(textOf(json.request_type) ?? '')) {
      findings.strength(json.strength).lost('the picture it started from');
    }
    const characters = own(own(json.v4_prompt, 'caption'), 'char_captions');
    return findings
      .lostIf(isObject(json.v4_prompt) && characters, 'the prompts of single characters')
      .lostIf(json.cfg_rescale, `guidance rescale ${textOf(json.cfg_rescale) ?? ''}`)
      .lostIf(json.sm, 'SMEA sampling')
      .lostIf(json.dynamic_thresholding, 'decrisper')
      .lostIf(json.reference_strength_multiple ?? json.reference_strength, 'the vibe pictures')
      .reading();
  },
};
