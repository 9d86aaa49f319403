/** What chunks work with when they need the engine `comfyui`: graphs in ComfyUI's API format, and what comes of them. */

/** A link to another node's output. */
export type ComfyLink = [node: string, slot: number];

export interface ComfyNode {
  class_type: string;
  /** By name; dotted names are nested inputs. Lists are links, see {@link ComfyLink}. */
  inputs: Record<string, unknown>;
  _meta?: { title?: string };
}

/** By node id. */
export type ComfyGraph = Record<string, ComfyNode>;

export type ComfyKind = 'image' | 'animated' | 'video' | 'audio' | 'text' | 'other';

/** One file of a result. */
export interface ComfyFile {
  kind: ComfyKind;
  file: Blob;
  /** The node that gave it. */
  node: string;
  /** Where it lies on the server; null for what came over the socket and lies nowhere. */
  name: { filename: string; subfolder: string; type: string } | null;
}

export interface ComfyResult {
  files: ComfyFile[];
  /** Words that nodes showed, by node. */
  texts: { node: string; text: string }[];
  /** The address of the server that made it. */
  server: string;
  promptId: string;
}

/** What is told while a graph runs. */
export interface ComfyNews {
  /** Jobs before this one; 0 = it is next. */
  onQueued?: (place: number) => void;
  /** Of the whole graph: nodes that count steps count each of them. */
  onProgress?: (done: number, of: number) => void;
  onPreview?: (picture: Blob) => void;
  /** Where the job is, so that another attempt can find it again with {@link ComfyUi.rejoin}. */
  onAccepted?: (job: ComfyJobRef) => void;
}

/** A job on a server. */
export interface ComfyJobRef {
  server: string;
  promptId: string;
}

export interface ComfyUi {
  /** Makes the graph of a workflow as the editor saves it (`editor_workflow.ts`), by what a server knows of its nodes. Throws as {@link run}. */
  convert(workflow: unknown): Promise<ComfyGraph>;
  /**
   * Sends a graph and waits for its results.
   * @param files pictures, sounds and videos by the `node.input` that takes their name
   * @throws StudioError `invalid_operation` for a graph that the server refuses or has not the nodes or models for, `origin_unavailable`,
   * `out_of_memory`, `result_invalid`, `cancelled`
   */
  run(graph: ComfyGraph, files: Readonly<Record<string, Blob>>, news?: ComfyNews): Promise<ComfyResult>;
  /** Waits for a job that was sent earlier; null where its server does not know it any more. */
  rejoin(job: ComfyJobRef, graph: ComfyGraph, news?: ComfyNews): Promise<ComfyResult | null>;
}
