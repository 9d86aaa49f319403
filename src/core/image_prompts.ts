/**
 * Image prompts in operations: pictures that say beside the words what is wanted, through IP-Adapters. An operation names these in
 * `ip_adapters` and gives their pictures in `ip_adapter_images`, one after another.
 */

/** One IP-Adapter of an operation. */
export interface IpAdapterUse {
  /** A ref of the library, `ip_adapter:import:<name>` and so on, or the name of a stored one: its file without `.safetensors`. */
  ip_adapter: string;
  /** Factor of what it adds: 1 as it was trained. diffusers calls it the scale. */
  weight: number;
  /** How many of the pictures are its; it sees them together. */
  images: number;
}
