/**
 * Providers that are called from one process and run in another: the daemon finds the place, passes question and
 * answer on, and lets neither side wait for a process that is gone.
 */
import { type ErrorBody, toWaverError } from "../../plugins/errors.ts";
import type { HookName } from "../../plugins/hooks.ts";
import type { Place, Registry } from "../plugins/registry.ts";
import type { FromRunner } from "../runner/protocol.ts";
import type { RunnerProcess } from "./process.ts";
import type { Lane } from "./state.ts";
import { DAEMON_LANE, DEVICE_LANE, type Fleet, pluginLane, WORKER_LANE } from "./supervise.ts";

export const laneOfPlace = (place: Place): Lane =>
  // Device code of a third party runs in the device's one runner.
  place.role === "daemon"
    ? DAEMON_LANE
    : place.role === "device"
      ? DEVICE_LANE
      : place.plugin === null
        ? WORKER_LANE
        : pluginLane(place.plugin);

interface Call {
  readonly from: RunnerProcess;
  to: RunnerProcess | null;
  readonly abort: AbortController;
}

type Use = Extract<FromRunner, { type: "use" }>;
type Called = Extract<FromRunner, { type: "called" }>;

export class Calls {
  readonly #open = new Map<string, Call>();
  readonly #fleet: Fleet;
  readonly #registry: () => Registry;
  readonly #workDir: (use: Use) => string;

  constructor(fleet: Fleet, registry: () => Registry, workDir: (use: Use) => string) {
    this.#fleet = fleet;
    this.#registry = registry;
    this.#workDir = workDir;
  }

  async use(from: RunnerProcess, use: Use): Promise<void> {
    const call: Call = { from, to: null, abort: new AbortController() };
    this.#open.set(use.call, call);
    try {
      const provider = this.#registry().provider(use.hook as HookName, use.id);
      if (provider === undefined)
        return this.#answer(use.call, {
          error: { code: "no_provider", message: `no ${use.hook} is called ${use.id}` },
        });
      const to = await this.#fleet.forCall(laneOfPlace(provider.place), call.abort.signal);
      if (!this.#open.has(use.call)) return;
      call.to = to;
      to.calls.add(use.call);
      to.send({
        type: "call",
        lease: use.lease,
        call: use.call,
        hook: use.hook,
        id: use.id,
        options: use.options,
        input: use.input,
        workDir: this.#workDir(use),
      });
    } catch (error) {
      this.#answer(use.call, { error: toWaverError(error).toBody() });
    }
  }

  called(message: Called): void {
    this.#answer(message.call, message);
  }

  abandon(id: string): void {
    const call = this.#open.get(id);
    if (call === undefined) return;
    this.#open.delete(id);
    call.abort.abort();
    call.to?.send({ type: "cancelCall", call: id });
    this.#done(call, id);
  }

  /** Both directions end: calls made by the process that is gone, and calls that ran in it. */
  gone(process: RunnerProcess, reason: string): void {
    for (const [id, call] of [...this.#open]) {
      if (call.from === process) this.abandon(id);
      else if (call.to === process)
        this.#answer(id, {
          error: {
            code:
              process.args.plugin === null
                ? process.args.role === "device"
                  ? "runner_failed"
                  : "worker_failed"
                : "plugin_failed",
            message: `the process that ran this ended (${reason})`,
            ...(process.args.plugin === null ? {} : { data: { plugin: process.args.plugin } }),
          },
        });
    }
  }

  #answer(id: string, answer: { output?: unknown; error?: ErrorBody | undefined }): void {
    const call = this.#open.get(id);
    if (call === undefined) return;
    this.#open.delete(id);
    this.#done(call, id);
    call.from.send({
      type: "used",
      call: id,
      ...(answer.error === undefined ? { output: answer.output } : { error: answer.error as never }),
    });
  }

  #done(call: Call, id: string): void {
    if (call.to === null) return;
    call.to.calls.delete(id);
    this.#fleet.release(call.to);
  }
}
