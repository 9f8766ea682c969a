/** A job's events as server-sent events, at the reader's pace. */
import { WaverError } from "../../plugins/errors.ts";
import type { JobId } from "../wire.ts";
import type { Daemon } from "./daemon.ts";

/** Bun and proxies close silent streams; a comment keeps them open. */
const HEARTBEAT_MS = 10_000;
const MAX_STREAMS = 256;
let streams = 0;

export async function eventStream({ jobs }: Daemon, id: JobId, after: number, signal: AbortSignal): Promise<Response> {
  if (streams >= MAX_STREAMS)
    throw new WaverError("queue_full", `${streams} event streams are open, the most this daemon keeps`, {
      hint: "close some, or ask for the job's state instead",
    });
  const abort = new AbortController();
  const events = await jobs.events(id, after, AbortSignal.any([signal, abort.signal]));
  streams += 1;
  let open = true;
  let beat: ReturnType<typeof setInterval> | undefined;
  const close = (): void => {
    if (!open) return;
    open = false;
    streams -= 1;
    clearInterval(beat);
    abort.abort();
  };
  signal.addEventListener("abort", close, { once: true });
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => {
      controller.enqueue(encoder.encode("retry: 1000\n\n"));
      // A reader that does not read gets no heartbeats either: nothing piles up here.
      beat = setInterval(() => {
        if (open && (controller.desiredSize ?? 0) > 0) controller.enqueue(encoder.encode(": beat\n\n"));
      }, HEARTBEAT_MS);
    },
    pull: async (controller) => {
      const next = await events.next();
      if (!open) return;
      if (next.done === true) {
        close();
        controller.close();
        return;
      }
      const { seq, type } = next.value;
      controller.enqueue(encoder.encode(`id: ${seq}\nevent: ${type}\ndata: ${JSON.stringify(next.value)}\n\n`));
    },
    cancel: close,
  });
  return new Response(body, {
    headers: { "Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no" },
  });
}
