import type { Recording } from '../../sandbox/runner.ts';
import { wav } from './wav.ts';

export interface Take {
  id: number;
  kind: 'picture' | 'video' | 'sound';
  /** Name of the saved file. */
  name: string;
  file: Blob;
  /** Object URL of `file`, revoked when it is dropped. */
  url: string;
  isKept: boolean;
}

/** Pictures and recordings of sketches since the room was opened, newest first. */
export class Takes {
  all = $state.raw<Take[]>([]);
  #ids = 0;

  addPicture(png: Blob, stem: string): void {
    this.#add('picture', png, `${stem}.png`);
  }

  addRecording(recording: Recording, stem: string): void {
    if (recording.tape === 'canvas') {
      this.#add('video', recording.video, `${stem}.webm`);
    } else {
      this.#add('sound', wav(recording.sound), `${stem}.wav`);
    }
  }

  markKept(take: Take): void {
    this.all = this.all.map((one) => (one.id === take.id ? { ...one, isKept: true } : one));
  }

  drop(take: Take): void {
    URL.revokeObjectURL(take.url);
    this.all = this.all.filter(({ id }) => id !== take.id);
  }

  clear(): void {
    this.all.forEach((take) => this.drop(take));
  }

  #add(kind: Take['kind'], file: Blob, name: string): void {
    this.#ids += 1;
    const numbered = this.#ids === 1 ? name : name.replace(/(\.\w+)$/, `_${this.#ids}$1`);
    this.all = [
      { id: this.#ids, kind, name: numbered, file, url: URL.createObjectURL(file), isKept: false },
      ...this.all,
    ];
  }
}
