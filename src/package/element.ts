/**
 * `<darkroom-image prompt="…" seed="…" checkpoint="…">`: a picture of words. It is made when the element comes into view of the document, anew when an
 * attribute changes, and shows how far it is meanwhile. All elements share one Darkroom; `DarkroomImage.darkroom` says which.
 */
import { createDarkroom } from './darkroom.ts';
import type { Darkroom, DarkroomJob, Operation, Result } from './contract.ts';

const ATTRIBUTES = ['prompt', 'negative-prompt', 'seed', 'checkpoint', 'steps', 'width', 'height'] as const;

const STYLE =
  ':host{display:inline-block;position:relative;min-width:64px;min-height:64px}img,canvas{display:block;max-width:100%}' +
  'progress{position:absolute;inset:auto 0 0;width:100%}[hidden]{display:none}p{margin:0}';

export class DarkroomImage extends HTMLElement {
  static observedAttributes: readonly string[] = ATTRIBUTES;
  /** What the pictures are made by; one with the package's own files where nothing else was set. */
  static darkroom: Darkroom | null = null;
  #job: DarkroomJob | null = null;
  #address: string | null = null;
  /** What the attributes asked for last. */
  #asked = '';

  /** The picture that is shown; null while there is none. */
  result: Result | null = null;

  connectedCallback(): void {
    this.#make();
  }

  disconnectedCallback(): void {
    this.#job?.cancel();
    this.#job = null;
    this.#asked = '';
    this.#release();
  }

  attributeChangedCallback(): void {
    // Attributes that are set one after another ask for one picture.
    queueMicrotask(() => this.#make());
  }

  #make(): void {
    const prompt = this.getAttribute('prompt')?.trim() ?? '';
    const asked = JSON.stringify(ATTRIBUTES.map((name) => this.getAttribute(name)));
    if (!this.isConnected || asked === this.#asked) {
      return;
    }
    this.#asked = asked;
    this.#job?.cancel();
    this.#job = null;
    if (prompt === '') {
      this.#show();
      return;
    }
    DarkroomImage.darkroom ??= createDarkroom();
    const canvas = document.createElement('canvas');
    const progress = document.createElement('progress');
    this.#show(canvas, progress);
    const job = DarkroomImage.darkroom.run(this.#operation(prompt), {
      preview: canvas,
      onProgress: ({ fraction }) => (progress.value = fraction),
    });
    this.#job = job;
    job.result.then(
      (result) => {
        if (this.#job === job) {
          this.#done(result, prompt);
        }
      },
      (error: unknown) => {
        if (this.#job === job) {
          this.#failed(error);
        }
      },
    );
  }

  #operation(prompt: string): Operation {
    const text = (name: (typeof ATTRIBUTES)[number], parameter: string) => {
      const value = this.getAttribute(name);
      return value === null ? {} : { [parameter]: value };
    };
    const number = (name: 'steps' | 'width' | 'height') => {
      const value = this.getAttribute(name);
      return value === null ? {} : { [name]: Number(value) };
    };
    return {
      operation: 'image_generation',
      config: 'stable_diffusion',
      checkpoint: this.getAttribute('checkpoint'),
      parameters: {
        prompt,
        ...text('negative-prompt', 'negative_prompt'),
        ...text('seed', 'seed'),
        ...number('steps'),
        ...number('width'),
        ...number('height'),
      },
    };
  }

  #done(result: Result, prompt: string): void {
    this.result = result;
    const image = document.createElement('img');
    image.alt = this.getAttribute('alt') ?? prompt;
    this.#release();
    this.#address = URL.createObjectURL(result.pictures[0]);
    image.src = this.#address;
    this.#show(image);
    this.dispatchEvent(new CustomEvent('result', { detail: result }));
  }

  #failed(error: unknown): void {
    const sentence = document.createElement('p');
    sentence.setAttribute('role', 'alert');
    sentence.textContent = error instanceof Error ? error.message : String(error);
    this.#show(sentence);
    this.dispatchEvent(new CustomEvent('error', { detail: error }));
  }

  #show(...parts: HTMLElement[]): void {
    const root = this.shadowRoot ?? this.attachShadow({ mode: 'open' });
    const style = document.createElement('style');
    style.textContent = STYLE;
    root.replaceChildren(style, ...parts);
  }

  #release(): void {
    if (this.#address !== null) {
      URL.revokeObjectURL(this.#address);
      this.#address = null;
    }
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'darkroom-image': DarkroomImage;
  }
}

if (!customElements.get('darkroom-image')) {
  customElements.define('darkroom-image', DarkroomImage);
}
