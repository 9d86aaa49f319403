/**
 * Tools' names for samplers and schedules. Internally we use ComfyUI's ids, and AUTOMATIC1111's labels in infotext; our own plms and the
 * spacings leading, linspace, trailing and distilled have no id there and keep theirs.
 */

import { BUILTIN_UPSCALER, UPSCALER } from '../core/builtin_checkpoints.ts';
import { refName } from '../core/further_checkpoints.ts';

/** Id, label, and aliases, as ids or labels. */
const SAMPLERS: readonly (readonly [id: string, label: string, ...aliases: string[]])[] = [
  ['euler', 'Euler'],
  ['euler_ancestral', 'Euler a'],
  ['heun', 'Heun'],
  ['heunpp2', 'HeunPP2'],
  ['dpm_2', 'DPM2', 'kdpm_2'],
  ['dpm_2_ancestral', 'DPM2 a', 'DPM2 Ancestral', 'kdpm_2_a'],
  ['lms', 'LMS'],
  ['dpm_fast', 'DPM fast'],
  ['dpm_adaptive', 'DPM adaptive'],
  ['dpmpp_2s_ancestral', 'DPM++ 2S a', 'DPM++ 2S Ancestral'],
  ['dpmpp_sde', 'DPM++ SDE', 'dpmpp_sde_gpu'],
  ['dpmpp_2m', 'DPM++ 2M'],
  ['dpmpp_2m_sde', 'DPM++ 2M SDE', 'dpmpp_2m_sde_gpu'],
  ['dpmpp_2m_sde_heun', 'DPM++ 2M SDE Heun', 'dpmpp_2m_sde_heun_gpu'],
  ['dpmpp_3m_sde', 'DPM++ 3M SDE', 'dpmpp_3m_sde_gpu'],
  ['ddpm', 'DDPM'],
  ['lcm', 'LCM'],
  ['tcd', 'TCD'],
  ['ipndm', 'IPNDM'],
  ['ipndm_v', 'IPNDM_V'],
  ['deis', 'DEIS'],
  ['res_multistep', 'Res Multistep'],
  ['gradient_estimation', 'Gradient Estimation'],
  ['er_sde', 'ER SDE'],
  ['sa_solver', 'SA Solver'],
  ['ddim', 'DDIM'],
  ['uni_pc', 'UniPC'],
  ['uni_pc_bh2', 'UniPC BH2'],
  ['uni_pc_flow', 'UniPC Flow'],
  ['plms', 'PLMS', 'pndm'],
];

const SCHEDULES: readonly (readonly [id: string, label: string, ...aliases: string[]])[] = [
  ['normal', 'Normal', 'Uniform', 'native', 'discrete'],
  ['karras', 'Karras'],
  ['exponential', 'Exponential'],
  ['sgm_uniform', 'SGM Uniform'],
  ['simple', 'Simple'],
  ['ddim_uniform', 'DDIM Uniform', 'DDIM'],
  ['beta', 'Beta'],
  ['linear_quadratic', 'Linear Quadratic'],
  ['kl_optimal', 'KL Optimal'],
  ['polyexponential', 'Polyexponential'],
  ['align_your_steps', 'Align Your Steps', 'AYS'],
  ['gits', 'GITS'],
  ['smoothstep', 'Smoothstep'],
  ['leading', 'Leading'],
  ['linspace', 'Linspace'],
  ['trailing', 'Trailing'],
  ['distilled', 'Distilled'],
];

const samplerIds = index(SAMPLERS);
const scheduleIds = index(SCHEDULES);
/** Written if the tool chose automatically. */
const AUTOMATIC = new Set(['automatic', 'default', 'none', 'scheduler', 'undefined', '']);

/** Longer names first, so that "SGM Uniform" is not taken for "Uniform". */
const joinedSchedules = [...scheduleIds.keys()].filter((key) => key !== 'ddim').sort((a, b) => b.length - a.length);

/**
 * @param label any tool's label or id, older joined ones such as "DPM++ 2M Karras" too
 * @returns null if the name is unknown
 */
export function samplerNamed(label: string): { sampler: string; schedule: string | null } | null {
  const key = keyOf(label.replace(/^k[ _](?=\w)/i, ''));
  const sampler = samplerIds.get(key);
  if (sampler !== undefined) {
    return { sampler, schedule: null };
  }
  for (const ending of joinedSchedules) {
    const before = key.endsWith(ending) ? samplerIds.get(key.slice(0, -ending.length)) : undefined;
    if (before !== undefined) {
      return { sampler: before, schedule: scheduleIds.get(ending) ?? null };
    }
  }
  return null;
}

/** @returns undefined if the tool chose automatically, null if the name is unknown */
export function scheduleNamed(label: string): string | null | undefined {
  const key = keyOf(label);
  return AUTOMATIC.has(key) ? undefined : (scheduleIds.get(key) ?? null);
}

/** AUTOMATIC1111's label, else the id itself. */
export function samplerLabel(id: string): string {
  return SAMPLERS.find(([known]) => known === id)?.[1] ?? id;
}

export function scheduleLabel(id: string): string {
  return SCHEDULES.find(([known]) => known === id)?.[1] ?? id;
}

/** AUTOMATIC1111's names for ways to enlarge; its others are networks. */
const HIRES_LABELS: Readonly<Partial<Record<string, string>>> = {
  latent: 'Latent',
  latent_antialiased: 'Latent (antialiased)',
  latent_bicubic: 'Latent (bicubic)',
  latent_bicubic_antialiased: 'Latent (bicubic antialiased)',
  latent_nearest: 'Latent (nearest)',
  latent_nearest_exact: 'Latent (nearest-exact)',
  lanczos: 'Lanczos',
};

/** @returns the id of {@link HIRES_LABELS}, or the upscaler that comes with the page; undefined if the name is unknown */
export function hiresUpscalerNamed(label: unknown): string | undefined {
  if (label === BUILTIN_UPSCALER.name) {
    return UPSCALER;
  }
  return Object.entries(HIRES_LABELS).find(([, known]) => known === label)?.[0];
}

/** AUTOMATIC1111's label, else the name of the upscaler that the ref is of. */
export function hiresUpscalerLabel(id: string): string {
  return HIRES_LABELS[id] ?? refName(id);
}

function index(table: readonly (readonly string[])[]): Map<string, string> {
  return new Map(table.flatMap((names) => names.map((name) => [keyOf(name), names[0]] as const)));
}

function keyOf(name: string): string {
  return name
    .toLowerCase()
    .replaceAll('+', 'p')
    .replace(/[^a-z0-9]/g, '');
}
