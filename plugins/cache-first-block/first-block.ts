/**
 * First-block caching (ParaAttention; diffusers.hooks.first_block_cache): the first block of a denoiser always runs. Where
 * what it adds is about what it added when the whole network last ran, the rest of the network is taken to add what it added
 * then. Errors do not pile up: the comparison is with a pass that was whole, never with one that was guessed.
 *
 * A network with several stretches of blocks (dual streams, then one stream) is decided about once, in the first; what
 * each stretch adds is remembered by itself. Rows of a batch are decided about one by one, so that a sample does not depend
 * on its neighbours: where some must be computed all are, and the others still get what they would have got alone.
 *
 * Axes: B batch, and whatever the network's tokens have.
 */
import { type BlockStretch, cat, keep, type Shortcut, scope, type Tensor, withShortcut } from "../../native/index.ts";
import { type Accelerator, type AcceleratorMemory, ByPass, type PassOf } from "../index.ts";

export interface Settings {
  readonly threshold: number;
  readonly mostInRow: number | null;
  readonly from: number;
  readonly to: number;
  readonly measure: boolean;
}

/** Of the passes of one prompt through one network. Each row is from the last pass in which it was computed. */
interface Remembered {
  /** What the first block added, [B ..]. */
  first: Tensor | undefined;
  /** What came on top of it, a stretch and a carried tensor. */
  readonly rest: Tensor[][];
  /** Passes since then, a row. */
  inRow: readonly number[];
}

/** The pass that is running. */
interface Pass {
  readonly known: Remembered;
  readonly mayReuse: boolean;
  /** Stretches of blocks so far. */
  stretches: number;
  /** Which rows get what is remembered. */
  reuses: readonly boolean[];
}

interface Facts {
  readonly tally: { readonly blocks: number; readonly skipped: number };
  readonly inRow: Readonly<Record<string, readonly number[]>>;
}

export class FirstBlock implements Accelerator, Shortcut {
  readonly isMeasured: boolean;
  readonly tally = { blocks: 0, skipped: 0 };
  readonly #settings: Settings;
  readonly #all = new ByPass<Remembered>(() => ({ first: undefined, rest: [], inRow: [] }), forget);
  #pass: Pass | undefined;

  constructor(settings: Settings, memory?: AcceleratorMemory) {
    this.#settings = settings;
    this.isMeasured = settings.measure;
    if (memory !== undefined) this.#recall(memory);
  }

  during<T>(of: PassOf, pass: () => T): T {
    const { from, to } = this.#settings;
    const { step, numSteps } = of;
    const known = this.#all.of(of);
    this.#pass = { known, mayReuse: step >= from * numSteps && step < to * numSteps, stretches: 0, reuses: [] };
    try {
      return withShortcut(this, pass);
    } finally {
      this.#pass = undefined;
    }
  }

  through(stretch: BlockStretch, carry: readonly Tensor[]): Tensor[] {
    const pass = this.#pass as Pass;
    const index = pass.stretches++;
    return scope(() => {
      let [before, done] = [carry, 0];
      if (index === 0) {
        before = stretch.run(carry, 0, 1);
        done = 1;
        this.#decide(pass, (before[0] as Tensor).sub(carry[0] as Tensor));
      }
      this.tally.blocks += stretch.length;
      const old = pass.known.rest[index];
      if (old !== undefined && pass.reuses.every(Boolean)) {
        this.tally.skipped += stretch.length - done;
        return done === stretch.length ? [...before] : added(before, old);
      }
      if (done === stretch.length) return [...before];
      const after = stretch.run(before, done, stretch.length);
      const rest = after.map((x, i) => x.sub(before[i] as Tensor));
      const isMixed = old !== undefined && pass.reuses.some(Boolean);
      const given = isMixed ? added(before, old).map((x, i) => byRow(pass.reuses, x, after[i] as Tensor)) : after;
      const remembered = isMixed ? rest.map((x, i) => byRow(pass.reuses, old[i] as Tensor, x)) : rest;
      pass.known.rest[index] = remembered.map((tensor) => keep(tensor));
      for (const tensor of old ?? []) tensor.dispose();
      return given;
    });
  }

  /** `first` [B ..]: what the first block adds in this pass. Remembered for rows that will be computed. */
  #decide(pass: Pass, first: Tensor): void {
    const { threshold, mostInRow } = this.#settings;
    const { known } = pass;
    const before = known.first;
    const moved = before === undefined || threshold === 0 || !pass.mayReuse ? [] : relativeChange(first, before);
    const rows = Array.from({ length: first.size(0) }, (_, row) => row);
    pass.reuses = rows.map((row) => {
      const isClose = (moved[row] ?? Number.NaN) <= threshold; // no number where nothing is known
      return isClose && (mostInRow === null || (known.inRow[row] ?? 0) < mostInRow);
    });
    known.inRow = rows.map((row) => (pass.reuses[row] ? (known.inRow[row] ?? 0) + 1 : 0));
    if (pass.reuses.every(Boolean)) return;
    const isMixed = before !== undefined && pass.reuses.some(Boolean);
    known.first = keep(isMixed ? byRow(pass.reuses, before, first) : first);
    before?.dispose();
  }

  memory(): AcceleratorMemory {
    const tensors: Record<string, Tensor> = {};
    const inRow: Record<string, readonly number[]> = {};
    for (const [key, known] of this.#all) {
      if (known.first === undefined) continue;
      inRow[key] = known.inRow;
      tensors[`${key} first`] = known.first;
      for (const [i, rest] of known.rest.entries())
        for (const [k, tensor] of (rest ?? []).entries()) tensors[`${key} rest ${i} ${k}`] = tensor;
    }
    return { tensors, facts: { tally: { ...this.tally }, inRow } satisfies Facts };
  }

  #recall({ tensors, facts }: AcceleratorMemory): void {
    const { tally, inRow } = facts as Facts;
    Object.assign(this.tally, tally);
    for (const [key, passes] of Object.entries(inRow)) {
      const rest: Tensor[][] = [];
      for (const [name, tensor] of Object.entries(tensors)) {
        const [, stretch, place] = name.startsWith(`${key} rest `) ? (/(\d+) (\d+)$/.exec(name) ?? []) : [];
        if (stretch === undefined) continue;
        const added = rest[Number(stretch)] ?? [];
        added[Number(place)] = keep(tensor.clone());
        rest[Number(stretch)] = added;
      }
      this.#all.set(key, { first: keep((tensors[`${key} first`] as Tensor).clone()), rest, inRow: passes });
    }
  }

  [Symbol.dispose](): void {
    this.#all[Symbol.dispose]();
  }
}

const added = (before: readonly Tensor[], rest: readonly Tensor[]): Tensor[] =>
  before.map((x, i) => x.add(rest[i] as Tensor));

/** mean |now - before| / mean |before|, a row. */
function relativeChange(now: Tensor, before: Tensor): number[] {
  return scope(() => {
    const mean = (x: Tensor): Tensor => x.abs().flatten(1).to("float32").mean([1]);
    return Array.from(mean(now.sub(before)).div(mean(before)).toFloat32Array());
  });
}

/** Rows of `old` where they are reused, of `fresh` elsewhere. */
const byRow = (reuses: readonly boolean[], old: Tensor, fresh: Tensor): Tensor =>
  cat(reuses.map((isReused, row) => (isReused ? old : fresh).narrow(0, row, 1)));

function forget({ first, rest }: Remembered): void {
  first?.dispose();
  for (const tensors of rest) for (const tensor of tensors ?? []) tensor.dispose();
}
