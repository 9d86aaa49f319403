/** What running jobs make, piece by piece, for listeners in this tab. Those that join midway are told everything so far. */

type Listener<Piece> = (piece: Piece) => void;

export class LiveStreams<Piece extends object> {
  readonly #listeners = new Map<string, Set<Listener<Piece>>>();
  readonly #made = new Map<string, { attempt: number; pieces: Piece[] }>();

  /** @param join adds a piece to those before, of the same attempt */
  constructor(readonly join: (pieces: Piece[], piece: Piece) => void) {}

  get isHeard(): boolean {
    return this.#listeners.size > 0;
  }

  /** Streams what a job makes, starting with what there is. Returns a function that stops; the end is not reported. */
  listen(id: string, listener: Listener<Piece>): () => void {
    const own: Listener<Piece> = (piece) => listener(piece);
    const listeners = this.#listeners.get(id) ?? new Set();
    listeners.add(own);
    this.#listeners.set(id, listeners);
    this.#made.get(id)?.pieces.forEach((piece) => own({ ...piece }));
    return () => {
      listeners.delete(own);
      if (listeners.size === 0 && this.#listeners.get(id) === listeners) {
        this.#listeners.delete(id);
      }
    };
  }

  /** A new attempt repeats its pieces from the start. */
  add(id: string, attempt: number, piece: Piece): void {
    const known = this.#made.get(id);
    const pieces = known?.attempt === attempt ? known.pieces : [];
    this.#made.set(id, { attempt, pieces });
    this.join(pieces, piece);
    this.#listeners.get(id)?.forEach((listener) => listener({ ...piece }));
  }

  /** The job no longer runs; the pieces so far are let go. */
  end(id: string): void {
    this.#made.delete(id);
  }

  /** The job is unknown from now on. */
  forget(id: string): void {
    this.#listeners.delete(id);
    this.end(id);
  }

  clear(): void {
    this.#listeners.clear();
  }
}
