/** A seeded simulation of the scheduler (reliability.md F8): random requests, deaths, late messages and restarts; the invariants hold at every step. */
import { expect, test } from "bun:test";
import { advance, restore } from "../../daemon/jobs/scheduler.ts";
import { type Clock, type Decision, newState, type SchedulerState } from "../../daemon/jobs/state.ts";
import { type JobRow, newRow } from "../../daemon/jobs/store.ts";
import type { Lease } from "../../daemon/runner/protocol.ts";
import { isTerminal, type JobId } from "../../daemon/wire.ts";

/** `WAVER_TEST_SEEDS=20000` is the figure of a long run. */
const SEEDS = Number(process.env["WAVER_TEST_SEEDS"] ?? 500);
const STEPS = 200;
const SIZES: Readonly<Record<string, number>> = { device: 1, worker: 2 };
const LIMIT = 20;

/** mulberry32: small, and the same everywhere. */
const randomOf = (seed: number) => (): number => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};

class World {
  readonly random: () => number;
  /** What is on the disk. */
  readonly journal = new Map<string, JobRow>();
  readonly events = new Map<string, number>();
  readonly ends = new Map<string, number>();
  state: SchedulerState = newState({ sizeOf: (lane) => SIZES[lane] ?? 1, queueLimit: LIMIT });
  now = 1;
  made = 0;
  /** Leases that a process believes it holds, present and past. */
  leases: { lease: Lease; calls: string[] }[] = [];

  constructor(seed: number) {
    this.random = randomOf(seed);
  }

  clock(): Clock {
    return {
      mono: this.now,
      wall: new Date(this.now).toISOString(),
      token: () => this.random().toString(36).slice(2),
      jitter: this.random,
    };
  }

  apply(decisions: readonly Decision[]): void {
    for (const decision of decisions) this.#apply(decision);
    this.check();
  }

  #apply(decision: Decision): void {
    if (decision.do === "write") {
      const { write } = decision;
      if (write.kind === "insert") this.journal.set(write.job.id, structuredClone(write.job));
      else if (write.kind === "update") {
        const row = this.journal.get(write.id) as JobRow;
        expect(isTerminal(row.state)).toBe(false);
        Object.assign(row, structuredClone(write.set));
      } else if (write.kind === "event") {
        const { job, seq } = write.event;
        expect(seq).toBe((this.events.get(job) ?? 0) + 1);
        this.events.set(job, seq);
        if (write.event.type === "state" && isTerminal(write.event.state))
          this.ends.set(job, (this.ends.get(job) ?? 0) + 1);
      }
    } else if (decision.do === "start") this.leases.push({ lease: decision.lease, calls: [] });
  }

  check(): void {
    const active: Record<string, number> = {};
    const folders = new Set<string>();
    for (const live of this.state.jobs.values()) {
      if (live.row.state !== "running") continue;
      expect(live.lease).not.toBeNull();
      expect(folders.has(live.row.workKey)).toBe(false);
      folders.add(live.row.workKey);
      // A cancelled parent winds down at once, whether its lane has room or not.
      if (live.waiting.length === 0 && live.answer === null && !live.row.cancelRequested)
        active[live.lane] = (active[live.lane] ?? 0) + 1;
    }
    for (const [lane, n] of Object.entries(active)) expect(n).toBeLessThanOrEqual(SIZES[lane] ?? 1);
    for (const n of this.ends.values()) expect(n).toBe(1);
  }

  row(parent: JobRow | null): JobRow {
    this.made += 1;
    const id = `job_${String(this.made).padStart(16, "0")}` as JobId;
    return newRow({
      id,
      age: parent?.age ?? this.made,
      operation: "op",
      priority: Math.floor(this.random() * 3),
      parent: parent?.id ?? null,
      idempotencyKey: null,
      bodyHash: "",
      body: {},
      childKey: null,
    });
  }

  lane(): string {
    return this.random() < 0.4 ? "device" : "worker";
  }

  /** A lease, mostly a live one; sometimes one that was lost long ago. */
  anyLease(): Lease | null {
    if (this.leases.length === 0) return null;
    const recent = this.random() < 0.85 ? this.leases.slice(-4) : this.leases;
    return recent[Math.floor(this.random() * recent.length)]?.lease ?? null;
  }

  step(): void {
    this.now += Math.floor(this.random() * 900);
    const dice = this.random();
    const clock = this.clock();
    if (dice < 0.22) {
      this.apply(
        advance(
          this.state,
          { type: "submit", row: this.row(null), lane: this.lane(), prepared: this.random() < 0.7 },
          clock,
        ),
      );
      return;
    }
    if (dice < 0.32) {
      const waiting = [...this.state.jobs.values()].filter((live) => !live.prepared);
      const live = waiting[Math.floor(this.random() * waiting.length)];
      if (live === undefined) return;
      const reuseKey = this.random() < 0.8 ? `key${Math.floor(this.random() * 4)}` : null;
      this.apply(
        advance(this.state, { type: "prepared", job: live.row.id, looked: this.now, reuseKey, reuse: null }, clock),
      );
      return;
    }
    if (dice < 0.36) {
      const all = [...this.state.jobs.keys()];
      const job = all[Math.floor(this.random() * all.length)];
      job === undefined ? undefined : this.apply(advance(this.state, { type: "cancel", job }, clock));
      return;
    }
    if (dice < 0.39) {
      this.restart();
      return;
    }
    if (dice < 0.45) {
      this.apply(advance(this.state, { type: "tick" }, clock));
      return;
    }
    const lease = this.anyLease();
    if (lease === null) return;
    if (dice < 0.6) {
      const parent = this.state.jobs.get(lease.job)?.row ?? null;
      const row = this.row(parent);
      this.apply(
        advance(
          this.state,
          { type: "submit", row, lane: this.lane(), prepared: true, child: { lease, call: `call${this.made}` } },
          clock,
        ),
      );
      return;
    }
    if (dice < 0.68) {
      this.apply(
        advance(
          this.state,
          { type: "progress", lease, progress: { stage: "s", done: Math.floor(this.random() * 9), total: 9 } },
          clock,
        ),
      );
      return;
    }
    if (dice < 0.78) {
      this.apply(advance(this.state, { type: "lost", lease, death: this.random() < 0.7, reason: "sim" }, clock));
      return;
    }
    if (this.random() < 0.15) {
      this.apply(advance(this.state, { type: "room" }, clock));
      return;
    }
    const full = { code: "disk_full", message: "" } as const;
    if (this.random() < 0.15) {
      const outcome = { ok: false, error: full } as const;
      this.apply(advance(this.state, { type: "finished", lease, outcome, peakBytes: 0, noRoom: true }, clock));
      return;
    }
    const outcome =
      this.random() < 0.8
        ? ({ ok: true, output: 1 } as const)
        : ({ ok: false, error: { code: this.random() < 0.5 ? "cancelled" : "internal", message: "" } } as const);
    this.apply(advance(this.state, { type: "finished", lease, outcome, peakBytes: 0 }, clock));
  }

  /** kill -9: memory is gone, the journal stays; processes of before still talk. */
  restart(): void {
    this.state = newState({ sizeOf: (lane) => SIZES[lane] ?? 1, queueLimit: LIMIT });
    const live = [...this.journal.values()].filter((row) => !isTerminal(row.state));
    for (const row of live)
      this.apply(
        restore(
          this.state,
          { row: structuredClone(row), lane: this.lane(), lastSeq: this.events.get(row.id) ?? 0, prepared: true },
          this.clock(),
        ),
      );
    this.apply(advance(this.state, { type: "tick" }, this.clock()));
  }

  /** Nothing goes wrong any more: everything ends. */
  settle(): void {
    for (let i = 0; i < 5_000 && this.state.jobs.size > 0; i += 1) {
      this.now += 70_000;
      for (const live of [...this.state.jobs.values()]) {
        if (!live.prepared)
          this.apply(
            advance(
              this.state,
              { type: "prepared", job: live.row.id, looked: this.now, reuseKey: null, reuse: null },
              this.clock(),
            ),
          );
        else if (live.lease !== null && live.waiting.length === 0 && live.answer === null)
          this.apply(
            advance(
              this.state,
              { type: "finished", lease: live.lease, outcome: { ok: true, output: 1 }, peakBytes: 0 },
              this.clock(),
            ),
          );
      }
      this.apply(advance(this.state, { type: "room" }, this.clock()));
      this.apply(advance(this.state, { type: "tick" }, this.clock()));
    }
  }
}

test(`${SEEDS} seeded worlds of ${STEPS} steps: terminal states are final, lanes are bounded, everything ends`, () => {
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const world = new World(seed);
    try {
      for (let step = 0; step < STEPS; step += 1) world.step();
      world.settle();
      expect(world.state.jobs.size).toBe(0);
      for (const row of world.journal.values()) expect(isTerminal(row.state)).toBe(true);
    } catch (error) {
      console.error(error);
      throw new Error(`seed ${seed} fails`, { cause: error });
    }
  }
}, 600_000);
