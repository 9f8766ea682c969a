/** A job and the jobs it starts, as one stream of events. */
import type { Client } from "../daemon/client.ts";
import type { JobEvent, JobView } from "../daemon/wire.ts";

/** Whose event it is. */
export interface Followed {
  readonly id: string;
  readonly operation: string;
  /** 0: the job that was asked for. */
  readonly depth: number;
}

export type Sink = (event: JobEvent, job: Followed) => void;

/** Children are announced by nobody: they are looked for, more often while something happens. */
const LOOK_MS = { first: 250, most: 1000 } as const;
/** Seconds without a daemon after which whoever watches is told; one that is started again answers within two. */
const PATIENCE = 8;

/** Reads to the end of the job and of everything it started. Throws the signal's reason when it is aborted. */
export async function follow(client: Client, job: JobView, sink: Sink, signal: AbortSignal): Promise<void> {
  await followAt(client, job, 0, sink, signal);
}

async function followAt(client: Client, job: JobView, depth: number, sink: Sink, signal: AbortSignal): Promise<void> {
  const ended = new AbortController();
  const children = followChildren(client, job.id, depth + 1, sink, signal, ended.signal);
  const held: JobEvent[] = [];
  const me = { id: job.id, operation: job.operation, depth };
  try {
    for await (const event of client.events(job.id, { signal, patience: PATIENCE })) {
      // The end is told after the ends of its children, as it happened.
      if (event.type === "state" && event.state !== "queued" && event.state !== "running") held.push(event);
      else sink(event, me);
    }
  } finally {
    ended.abort();
    await children;
  }
  for (const event of held) sink(event, me);
}

/** Looks until the parent has ended, then once more: a short child may come and go between two looks. */
async function followChildren(
  client: Client,
  parent: string,
  depth: number,
  sink: Sink,
  signal: AbortSignal,
  ended: AbortSignal,
): Promise<void> {
  const seen = new Set<string>();
  const watching: Promise<void>[] = [];
  let pause: number = LOOK_MS.first;
  for (let last = false; !last && !signal.aborted; ) {
    await rest(pause, ended, signal);
    last = ended.aborted;
    const fresh = (await looked(client, parent)).filter(({ id }) => !seen.has(id)).reverse();
    pause = fresh.length > 0 ? LOOK_MS.first : Math.min(LOOK_MS.most, pause * 1.5);
    for (const child of fresh) {
      seen.add(child.id);
      watching.push(followAt(client, child, depth, sink, signal));
    }
  }
  // A child's stream that breaks must not hide how the job itself ended; an abort is told by the job's own stream.
  await Promise.allSettled(watching);
}

async function looked(client: Client, parent: string): Promise<JobView[]> {
  try {
    return await client.jobs({ parent });
  } catch {
    return []; // the daemon is being restarted: the next look will find them
  }
}

function rest(ms: number, ...signals: AbortSignal[]): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    for (const signal of signals) signal.aborted ? done() : signal.addEventListener("abort", done, { once: true });
  });
}
