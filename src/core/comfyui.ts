/** What chunks that need the engine `comfyui` work with: graphs in ComfyUI's API format, and their results. */

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
  /** The node that produced it. */
  node: string;
  /** Where it is on the server; null if it came over the socket and was never stored. */
  name: { filename: string; subfolder: string; type: string } | null;
}

export interface ComfyResult {
  files: ComfyFile[];
  /** Text that nodes showed, by node. */
  texts: { node: string; text: string }[];
  /** The address of the server that made it. */
  server: string;
  promptId: string;
}

/** Events while a graph runs. */
export interface ComfyNews {
  /** Jobs ahead of this one; 0 = it is next. */
  onQueued?: (place: number) => void;
  /** Progress of the whole graph; nodes that report steps count once per step. */
  onProgress?: (done: number, of: number) => void;
  onPreview?: (picture: Blob) => void;
  /** Where the job runs, so another attempt can find it again with {@link ComfyUi.rejoin}. */
  onAccepted?: (job: ComfyJobRef) => void;
  /** A server failed for this reason; the job continues, or starts again, on another one. */
  onHandedOn?: (reason: string) => void;
}

/** A job on a server. */
export interface ComfyJobRef {
  server: string;
  promptId: string;
}

/** What a workflow is and whether it can run, found out before anything is sent. */
export interface ComfySurvey {
  /** For a workflow saved by the editor: the graph a server makes of it. */
  graph: ComfyGraph;
  /** Names of the files on the servers, by the `node.input` that takes one. */
  choices: Record<string, string[]>;
  /** By address; the problem is a sentence saying what a server lacks, or why it did not answer. */
  servers: { server: string; problem: string | null }[];
}

export interface ComfyUi {
  /** Converts a workflow saved by the editor into a graph (`editor_workflow.ts`), using a server's node definitions. Throws like {@link run}. */
  convert(workflow: unknown): Promise<ComfyGraph>;
  /** @param workflow in either form */
  survey(workflow: unknown): Promise<ComfySurvey>;
  /**
   * Sends a graph and waits for its results.
   * @param files pictures, sounds and videos by the `node.input` that takes their name
   * @throws StudioError `invalid_operation` for a graph that the server refuses or lacks nodes or models for, `origin_unavailable`,
   * `out_of_memory`, `result_invalid`, `cancelled`
   */
  run(graph: ComfyGraph, files: Readonly<Record<string, Blob>>, news?: ComfyNews): Promise<ComfyResult>;
  /** Waits for a job that was sent earlier; null if its server no longer knows it. */
  rejoin(job: ComfyJobRef, graph: ComfyGraph, news?: ComfyNews): Promise<ComfyResult | null>;
}
