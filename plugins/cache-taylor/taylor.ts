/**
 * TaylorSeer (arXiv 2503.06923) on the output of the network: F(k + d) is about the sum of F's differences at k times d^i / i!,
 * where the i-th difference is that of the one before over the steps between the last two runs (equation 4). The paper
 * extrapolates what attention and MLP of every block give; diffusers' lite mode, and this, what the last layer gives. That
 * costs order + 1 tensors of the size of the latents, and between two runs nothing.
 *
 * When the network runs depends on the step alone, so rows of a batch do not depend on each other, nor on the number of ranks.
 */
import { type BlockStretch, keep, type Shortcut, scope, Tensor, withShortcut } from "../../native/index.ts";
import { type Accelerator, type AcceleratorMemory, ByPass, type PassOf, WaverError } from "../index.ts";

export interface Settings {
  readonly interval: number;
  readonly order: number;
  readonly whole: number;
  readonly to: number;
  readonly measure: boolean;
}

/** Of the passes of one prompt through one network. */
interface Series {
  /** Passes so far. */
  passes: number;
  /** The pass in which the network ran last. */
  ranAt: number;
  /** The prediction of that pass and its differences, [B C T h w] each. */
  factors: readonly Tensor[];
}

interface Facts {
  readonly tally: { readonly blocks: number; readonly skipped: number };
  readonly numBlocks: number;
  readonly series: Readonly<Record<string, Pick<Series, "passes" | "ranAt">>>;
}

export class Taylor implements Accelerator, Shortcut {
  readonly isMeasured: boolean;
  readonly tally = { blocks: 0, skipped: 0 };
  readonly #settings: Settings;
  readonly #all = new ByPass<Series>(
    () => ({ passes: 0, ranAt: 0, factors: [] }),
    ({ factors }) => {
      for (const factor of factors) factor.dispose();
    },
  );
  /** Of a pass; counted in the first. */
  #numBlocks = 0;
  #counted = 0;

  constructor(settings: Settings, memory?: AcceleratorMemory) {
    this.#settings = settings;
    this.isMeasured = settings.measure;
    if (memory === undefined) return;
    const { tally, numBlocks, series } = memory.facts as Facts;
    Object.assign(this.tally, tally);
    this.#numBlocks = numBlocks;
    for (const [key, { passes, ranAt }] of Object.entries(series)) {
      const names = Array.from({ length: settings.order + 1 }, (_, i) => `${key} ${i}`);
      const factors = names.flatMap((name) => memory.tensors[name] ?? []).map((factor) => keep(factor.clone()));
      this.#all.set(key, { passes, ranAt, factors });
    }
  }

  during<T>(of: PassOf, pass: () => T): T {
    const series = this.#all.of(of);
    const at = series.passes++;
    const { interval, whole, to } = this.#settings;
    // as diffusers counts: the step after the first whole ones is extrapolated, so that the series has one more run soon after
    const runs = at < whole || (at - whole - 1) % interval === 0 || of.step >= to * of.numSteps;
    const made = runs ? this.#run(series, at, pass) : extrapolated(series, at);
    this.tally.blocks += this.#numBlocks;
    if (!runs) this.tally.skipped += this.#numBlocks;
    return made as T;
  }

  through(stretch: BlockStretch, carry: readonly Tensor[]): Tensor[] {
    this.#counted += stretch.length;
    return stretch.run(carry, 0, stretch.length);
  }

  #run<T>(series: Series, at: number, pass: () => T): T {
    this.#counted = 0;
    const made = withShortcut(this, pass);
    if (!(made instanceof Tensor))
      throw new WaverError("internal", "a pass that gives no tensor cannot be extrapolated");
    this.#numBlocks = Math.max(this.#numBlocks, this.#counted);
    scope(() => {
      const factors = [made.clone()];
      for (const before of series.factors.slice(0, this.#settings.order))
        factors.push((factors.at(-1) as Tensor).sub(before).div(at - series.ranAt));
      for (const before of series.factors) before.dispose();
      series.factors = factors.map((factor) => keep(factor));
    });
    series.ranAt = at;
    return made;
  }

  memory(): AcceleratorMemory {
    const tensors: Record<string, Tensor> = {};
    const series: Record<string, Pick<Series, "passes" | "ranAt">> = {};
    for (const [key, { passes, ranAt, factors }] of this.#all) {
      series[key] = { passes, ranAt };
      for (const [i, factor] of factors.entries()) tensors[`${key} ${i}`] = factor;
    }
    return { tensors, facts: { tally: { ...this.tally }, numBlocks: this.#numBlocks, series } satisfies Facts };
  }

  [Symbol.dispose](): void {
    this.#all[Symbol.dispose]();
  }
}

function extrapolated({ factors, ranAt }: Series, at: number): Tensor {
  let weight = 1;
  return scope(() =>
    factors.slice(1).reduce((sum, factor, i) => {
      weight *= (at - ranAt) / (i + 1);
      return sum.add(factor.mul(weight));
    }, (factors[0] as Tensor).clone()),
  );
}
