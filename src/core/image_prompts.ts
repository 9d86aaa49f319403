/**
 * Image prompts in operations: pictures that say what is wanted, in addition to the words, through IP-Adapters. An operation names the
 * adapters in `ip_adapters` and lists all their pictures, one adapter's after another's, in `ip_adapter_images`.
 */

/** One IP-Adapter of an operation. */
export interface IpAdapterUse {
  /** A ref of the library, `ip_adapter:import:<name>` and so on, or the name of a stored one: its file without `.safetensors`. */
  ip_adapter: string;
  /** Factor of what it adds: 1 as it was trained. diffusers calls it the scale. */
  weight: number;
  /** How many of the pictures belong to it; it sees them together. */
  images: number;
}
