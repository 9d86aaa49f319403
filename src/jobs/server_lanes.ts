/**
 * Lanes for jobs on other machines: as many run at once as there are servers to make them, one more where the engine lets it stand by, and none
 * waits for those of another engine. Loaded once servers are known.
 */
import type { Requirements } from '../core/plan.ts';
import type { RemoteServer } from '../core/remote.ts';

/** A service over https with a key takes several at once; a machine with one GPU does not. */
const AT_SERVICE = 4;

export class ServerLanes {
  /** By engine. */
  #widths = new Map<string, number>();
  readonly #opened = new Set<string>();
  readonly #open: (takes: (needs: Requirements) => boolean) => void;

  /** @param open begins a lane, which lasts as long as the page */
  constructor(open: (takes: (needs: Requirements) => boolean) => void) {
    this.#open = open;
  }

  /** Whether a job has lanes; if not, no server of its engine is entered. */
  has(needs: Requirements): boolean {
    return this.#widths.has(engineOf(needs));
  }

  /** Every server that is entered now. */
  know(servers: readonly Pick<RemoteServer, 'engine' | 'address' | 'hasKey'>[]): void {
    this.#widths = new Map();
    for (const { engine, address, hasKey } of servers) {
      const width = hasKey && address.startsWith('https:') ? AT_SERVICE : 1;
      this.#widths.set(engine, (this.#widths.get(engine) ?? 0) + width);
    }
    for (const [engine, width] of this.#widths) {
      for (let at = 0; at <= width; at++) {
        const name = `${engine}/${at}`;
        if (!this.#opened.has(name)) {
          this.#opened.add(name);
          this.#open((needs) => !needs.gpu && engineOf(needs) === engine && at < this.#widthFor(needs));
        }
      }
    }
  }

  #widthFor(needs: Requirements): number {
    const width = this.#widths.get(engineOf(needs)) ?? 0;
    return width > 0 && needs.standsBy ? width + 1 : width;
  }
}

/** The last one makes the result. */
function engineOf({ engines }: Requirements): string {
  return engines.at(-1) ?? '';
}
