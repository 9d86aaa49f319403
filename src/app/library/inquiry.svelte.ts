import type { Config } from '../../core/catalogue.ts';
import { StudioError } from '../../core/errors.ts';
import { isLanguageLayout } from '../../core/language.ts';
import type { LanguagePrecision, LanguageSummary, PrecisionChoice } from '../../core/language.ts';
import type { CheckpointSummary, Estimate, VariantEstimate } from '../../core/model.ts';
import type { JobClient } from '../../jobs/client.ts';
import { configsElsewhere } from '../../jobs/elsewhere.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { Listing, Origin } from '../../weights/library/library_api.ts';
import { catalogue } from '../../pipelines/catalogue.ts';
import { originText } from './origin.ts';
import { reckoningWith } from './reckoning.ts';

/** An inquiry about a checkpoint before anything is stored: what it is, whether it may be used, whether it fits, how long it would take. */
export class Inquiry {
  readonly origin: Origin;
  /** The one given for this inquiry. */
  readonly token: string | null;

  listing = $state.raw<Listing | null>(null);
  summary = $state.raw<CheckpointSummary | null>(null);
  /** Instead of {@link summary}, for a language model or a voice. */
  language = $state.raw<LanguageSummary | null>(null);
  estimate = $state.raw<Estimate | null>(null);
  /** The configs that make the same on other machines, and of which of their engines a server is entered. */
  #others = $state.raw<{ config: Config; isEntered: boolean }[]>([]);
  /** A sentence about what went wrong; what is already known stays. */
  error = $state<string | null>(null);
  isBusy = $state(true);

  /** Size of the pictures to estimate, in pixels. */
  size = $state.raw({ width: 512, height: 512 });
  /** Unset until somebody chooses: the plan's recommendation. */
  #chosen = $state<WeightVariant | null>(null);
  #precision = $state<LanguagePrecision | null>(null);
  readonly #client: JobClient;

  constructor(client: JobClient, origin: Origin, token: string | null) {
    this.#client = client;
    this.origin = origin;
    this.token = token;
  }

  get name(): string {
    return this.summary?.name ?? this.language?.name ?? this.listing?.name ?? originText(this.origin);
  }

  get variant(): WeightVariant {
    return this.#chosen ?? this.estimate?.recommended ?? this.summary?.variants[0] ?? 'full';
  }

  set variant(variant: WeightVariant) {
    this.#chosen = variant;
  }

  /** The precision in which to store a language model or a voice; null before it was examined, and if none is complete. */
  get choice(): PrecisionChoice | null {
    const { precisions = [], recommended = null } = this.language ?? {};
    const wanted = this.#precision ?? recommended;
    return precisions.find(({ precision }) => precision === wanted) ?? precisions[0] ?? null;
  }

  set precision(precision: LanguagePrecision) {
    this.#precision = precision;
  }

  /** The files that a run reads. */
  get paths(): string[] {
    return this.choice?.files ?? this.summary?.needs ?? [];
  }

  /** Bytes over the network, the same for every variant. */
  readonly bytes = $derived.by(() => {
    const { paths } = this;
    return (this.listing?.files ?? []).reduce((sum, { path, size }) => sum + (paths.includes(path) ? size : 0), 0);
  });

  /** Its future name in the library. */
  readonly stored = $derived.by(() => {
    const suffix = this.variant === 'full' ? '' : `#${this.variant}`;
    return { ref: `${this.listing?.ref ?? ''}${suffix}`, name: this.name };
  });

  /** The plan for each way to store it, as this machine would compute it. */
  readonly variants = $derived.by((): VariantEstimate[] => {
    const here = (this.estimate?.variants ?? []).filter(({ runsHere }) => runsHere);
    return here.filter(({ variant }, index) => here.findIndex((other) => other.variant === variant) === index);
  });

  /** Where what fits nowhere here can be made, a server that is entered before one that is not; null if it fits, or nobody makes it. */
  readonly elsewhere = $derived.by(() => {
    const isTooLarge = this.variants.length > 0 && this.variants.every(({ misfit }) => misfit !== null);
    return isTooLarge ? (this.#others.find(({ isEntered }) => isEntered) ?? this.#others[0] ?? null) : null;
  });

  /** Asks the origin, reads configs and headers, and estimates. Errors go to {@link error}. */
  async start(): Promise<void> {
    try {
      this.listing = await this.#client.library.look(this.origin, this.token);
      if (this.listing.gated && this.token === null) {
        return;
      }
      if (isLanguageLayout(this.listing.files.map(({ path }) => path))) {
        const source = { kind: 'remote' as const, listing: this.listing, token: this.token };
        this.language = await this.#client.language.look(source);
        return;
      }
      this.summary = await this.#client.describe(this.listing, this.token);
      const { width, height } = this.summary.defaults;
      this.size = { width, height };
      await this.reckon();
    } catch (error) {
      this.error = StudioError.from(error).message;
    } finally {
      this.isBusy = false;
    }
  }

  /** Estimates memory and time for {@link size}, with the checkpoint's own steps and guidance. */
  async reckon(): Promise<void> {
    const { listing, summary, size } = this;
    const reckoning = summary && reckoningWith(summary, size);
    if (!listing || !reckoning) {
      return;
    }
    const { config, request } = reckoning;
    this.#others = await this.#otherMachines(config, listing.ref);
    if (!request) {
      return;
    }
    const estimate = await this.#client.estimate({ kind: 'remote', listing, token: this.token }, request);
    // A size chosen meanwhile gets its own answer.
    if (this.size === size) {
      this.estimate = estimate;
    }
  }

  async #otherMachines(config: string, ref: string): Promise<{ config: Config; isEntered: boolean }[]> {
    const found = configsElsewhere(config, ref, catalogue);
    if (found.length === 0) {
      return [];
    }
    const servers = await (await this.#client.remote).servers().catch(() => []);
    return found.map((one) => ({
      config: one.config,
      isEntered: servers.some(({ engine }) => engine === one.engine),
    }));
  }
}
