/** Words as Stable Audio's transformers are told of them, and what guidance leads away from. */
import type { Conditioning } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';

/** What a transformer is told: words with the seconds behind them, and the seconds alone. */
export interface SoundConditions {
  /** [tokens and seconds, width] */
  states: DeviceTensor;
  /** [1, of all seconds] */
  whole: DeviceTensor;
  tokens: number;
  text: string;
}

export class SoundTexts implements Conditioning {
  constructor(
    readonly prompt: SoundConditions,
    /** What guidance leads away from; null = there is none. */
    readonly away: SoundConditions | null,
    /** Whether that was words. */
    readonly hasNegative: boolean,
    readonly limit: number,
  ) {}

  get tokens(): Conditioning['tokens'] {
    return { prompt: this.prompt.tokens, negative: this.away?.tokens ?? 0, limit: this.limit };
  }

  get texts(): Conditioning['texts'] {
    return { prompt: this.prompt.text, negative: this.hasNegative ? (this.away?.text ?? null) : null };
  }

  dispose(): void {
    for (const { states, whole } of [this.prompt, ...(this.away ? [this.away] : [])]) {
      states.dispose();
      whole.dispose();
    }
  }
}
