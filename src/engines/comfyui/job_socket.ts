/**
 * The websocket of one job. It reconnects only after `close`: a server forgets a client id when any socket with that id closes, so a
 * second socket opened early would go deaf.
 */
import type { ServerCalls } from '../http/server_calls.ts';
import { readMessage, readPicture } from './socket_messages.ts';
import type { SocketMessage, SocketPicture } from './socket_messages.ts';

export interface SocketEars {
  onMessage: (message: SocketMessage) => void;
  onPicture: (picture: SocketPicture) => void;
  /** Messages missed until it reopens are not repeated. */
  onClose: () => void;
}

export class JobSocket {
  readonly #url: string;
  readonly #Socket: typeof WebSocket;
  readonly #ears: SocketEars;
  /** Delay before reconnecting, in milliseconds. */
  readonly #pause: number;
  #socket: WebSocket | null = null;
  #isOver = false;

  constructor(calls: ServerCalls, clientId: string, Socket: typeof WebSocket, pause: number, ears: SocketEars) {
    this.#url = `${calls.base.replace(/^http/, 'ws')}/ws?clientId=${clientId}`;
    this.#Socket = Socket;
    this.#pause = pause;
    this.#ears = ears;
  }

  get isOpen(): boolean {
    return this.#socket?.readyState === 1;
  }

  /** Resolves when it is open, or cannot be opened now. @param within milliseconds to wait at most */
  async open(within: number): Promise<void> {
    if (this.#isOver) {
      return;
    }
    const socket = new this.#Socket(this.#url);
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    await new Promise<void>((settled) => {
      const patience = setTimeout(settled, within);
      const settle = () => {
        clearTimeout(patience);
        settled();
      };
      socket.addEventListener('open', () => {
        // Only counts as the first message.
        socket.send(JSON.stringify({ type: 'feature_flags', data: { supports_preview_metadata: true } }));
        settle();
      });
      socket.addEventListener('message', ({ data }: MessageEvent<unknown>) => {
        this.#hear(data);
      });
      socket.addEventListener('close', () => {
        settle();
        if (!this.#isOver) {
          this.#ears.onClose();
          setTimeout(() => void this.open(within), this.#pause);
        }
      });
    });
  }

  close(): void {
    this.#isOver = true;
    this.#socket?.close();
  }

  #hear(data: unknown): void {
    if (data instanceof ArrayBuffer) {
      const picture = readPicture(data);
      if (picture) {
        this.#ears.onPicture(picture);
      }
      return;
    }
    const message = typeof data === 'string' ? readMessage(data) : null;
    if (message) {
      this.#ears.onMessage(message);
    }
  }
}
