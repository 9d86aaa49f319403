/**
 * ControlNets in operations: networks that lead a checkpoint's own by a control picture, such as lines or a depth map. An operation names
 * them in `controlnets` and gives as many pictures in `control_images`, in the same order.
 */

/** What can be made of a control picture without a network, before the ControlNet sees it. */
export const DETECTORS = ['none', 'canny', 'lineart', 'depth'] as const;
export type Detector = (typeof DETECTORS)[number];

/**
 * Kinds of control pictures, as ControlNets for several of them (union) count them; the last two only those of eight kinds know.
 *
 * Reference: xinsir's controlnet-union-sdxl-1.0
 */
export const CONTROL_KINDS = ['pose', 'depth', 'scribble', 'lines', 'normal', 'segments', 'tile', 'repaint'] as const;
export type ControlKind = (typeof CONTROL_KINDS)[number];

/** One ControlNet of an operation. */
export interface ControlNetUse {
  /** A ref of the library, `controlnet:import:<name>` and so on, or the name of a stored one: its file without `.safetensors`. */
  controlnet: string;
  /** Factor of what it adds: 1 as it was trained. */
  weight: number;
  /** It counts in the steps that lie between these shares of all steps. */
  start: number;
  end: number;
  /** `none` = the picture is what the ControlNet was trained to see. */
  detector: Detector;
  /** What the picture shows, for a ControlNet for several kinds; absent for others. */
  kind?: ControlKind | undefined;
  /** diffusers' guess mode: it leads what follows the prompt and not the negative prompt, and less where the picture is large; absent = no. */
  guess?: boolean | undefined;
}
