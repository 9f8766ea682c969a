/** Shows a job to its end, or until the person leaves. */
import type { Client } from "../daemon/client.ts";
import type { JobEvent, JobView } from "../daemon/wire.ts";
import { type ErrorBody, exitCode, WaverError } from "../plugins/errors.ts";
import { follow, type Sink } from "./follow.ts";
import { Interrupt } from "./interrupt.ts";
import { createRenderer, type Renderer } from "./render.ts";

export interface WatchOptions {
  readonly json: boolean;
  readonly verbose: boolean;
  readonly cancelOnInterrupt: boolean;
}

/** Left behind, not ended: the shell's code for a job that goes on is success. */
export type Outcome = "done" | "detached";

/** Throws the job's own error when it failed or was cancelled. */
export async function watch(client: Client, job: JobView, options: WatchOptions): Promise<Outcome> {
  const { json } = options;
  const renderer = createRenderer({ json, verbose: options.verbose });
  const leave = new AbortController();
  using interrupt = new Interrupt({
    cancel: options.cancelOnInterrupt,
    interactive: process.stdin.isTTY === true && process.stdout.isTTY === true,
    onFirst: () => renderer.note("Ctrl-C again within 2 s cancels the job; else it goes on without this terminal"),
  });
  let shown = true;
  const previews = new Previews(client, renderer);
  const sink: Sink = (event, whose) => {
    if (!shown) return;
    renderer.event(event, whose);
    previews.look(event);
  };
  const following = follow(client, job, sink, leave.signal);
  const wish = await Promise.race([
    following.then(
      () => "end" as const,
      (error: unknown) => ({ error }),
    ),
    interrupt.wish,
  ]);
  try {
    if (wish === "cancel") {
      await client.cancel(job.id);
      await following; // it ends at its next step, and how it ended is still shown
    }
    if (wish === "detach") {
      shown = false;
      leave.abort();
      await following.catch(() => undefined); // its end is the abort itself
      renderer.close();
      told(job, json, "detached");
      return "detached";
    }
    if (typeof wish === "object") throw left(wish.error, job);
    const last = await client.job(job.id);
    if (last.state !== "done") throw failureOf(last);
    renderer.result(last);
    return "done";
  } finally {
    renderer.close();
  }
}

/** Fetches the newest preview when progress speaks of one, where a picture can be shown. */
class Previews {
  #seen = "";
  #busy = false;

  constructor(
    private readonly client: Client,
    private readonly renderer: Renderer,
  ) {}

  look(event: JobEvent): void {
    if (this.renderer.picture === undefined || event.type !== "progress" || this.#busy) return;
    const preview = event.progress.detail?.["preview"];
    const key = preview === undefined ? "" : `${event.job} ${JSON.stringify(preview)}`;
    if (key === "" || key === this.#seen) return;
    this.#seen = key;
    this.#busy = true;
    void this.#show(event.job).finally(() => {
      this.#busy = false;
    });
  }

  async #show(job: string): Promise<void> {
    try {
      this.renderer.picture?.(await (await this.client.request("GET", `/v1/jobs/${job}/preview`)).bytes());
    } catch {
      // The job has ended since, or the daemon is being restarted: the picture before stays.
    }
  }
}

/** The daemon is gone; its job is not. */
function left(error: unknown, { id, operation }: JobView): unknown {
  if (!(error instanceof WaverError) || error.code !== "daemon_unreachable") return error;
  return new WaverError(
    "daemon_unreachable",
    `the daemon ended while ${operation} was under way, and none has answered since`,
    {
      cause: error,
      hint: `the job goes on where it was as soon as a daemon runs: waver jobs watch ${id} starts one`,
      data: { job: id },
    },
  );
}

function failureOf({ id, state, error }: JobView): WaverError {
  if (error !== undefined) {
    const body = error as ErrorBody;
    return WaverError.fromBody(
      body.hint !== undefined || exitCode(body.code) !== 1
        ? body
        : { ...body, hint: `what it said: waver jobs logs ${id}` },
    );
  }
  return state === "cancelled"
    ? new WaverError("cancelled", "the job was cancelled", { data: { job: id } })
    : new WaverError("job_lost", `the job ${id} is ${state}`);
}

/** How to find a job again. */
export function told({ id, operation, state }: JobView, json: boolean, type: "accepted" | "detached"): void {
  if (json) return void process.stdout.write(`${JSON.stringify({ type, job: id, operation, state })}\n`);
  process.stdout.write(
    `${operation} goes on as ${id}\n  watch it:   waver jobs watch ${id}\n  cancel it:  waver jobs cancel ${id}\n`,
  );
}
