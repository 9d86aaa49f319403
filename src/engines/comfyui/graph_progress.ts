/** Progress of a whole graph. Nodes that report steps count once per step, others once; cached nodes do not count. */
export class GraphProgress {
  readonly #nodes: Map<string, { done: number; of: number }>;

  constructor(nodes: readonly string[]) {
    this.#nodes = new Map(nodes.map((node) => [node, { done: 0, of: 1 }]));
  }

  cached(nodes: readonly string[]): void {
    nodes.forEach((node) => this.#nodes.delete(node));
  }

  /** Nodes added by a subgraph or an expansion count from when they are first mentioned. */
  at(node: string, value: number, max: number, isFinished: boolean): void {
    const of = Number.isFinite(max) && max > 0 ? max : 1;
    this.#nodes.set(node, { done: isFinished ? of : Math.min(Math.max(value, 0), of), of });
  }

  get done(): number {
    return Math.floor([...this.#nodes.values()].reduce((sum, { done }) => sum + done, 0));
  }

  get of(): number {
    return Math.ceil([...this.#nodes.values()].reduce((sum, { of }) => sum + of, 0));
  }
}
