/** Server-sent events of a job as an AsyncIterable that survives broken connections and a restarted daemon. */
import { WaverError } from "../../plugins/errors.ts";
import type { JobEvent } from "../wire.ts";

export interface ReadOptions {
  readonly after?: number;
  readonly signal?: AbortSignal | undefined;
  readonly patience?: number;
}

const RETRY_MS = 250;

export async function* readEvents(
  open: (after: number, signal: AbortSignal) => Promise<Response>,
  options: ReadOptions,
): AsyncGenerator<JobEvent> {
  const { signal, patience = 60 } = options;
  let last = options.after ?? 0;
  let lastHeard = performance.now();
  for (;;) {
    signal?.throwIfAborted();
    const abort = new AbortController();
    const stop = (): void => abort.abort(signal?.reason);
    signal?.addEventListener("abort", stop, { once: true });
    try {
      const response = await open(last, abort.signal);
      lastHeard = performance.now();
      for await (const event of parse(response)) {
        last = event.seq;
        yield event;
        lastHeard = performance.now();
        if (
          event.type === "state" &&
          (event.state === "done" || event.state === "failed" || event.state === "cancelled")
        )
          return;
      }
      // An end without a terminal event: the daemon stopped, or everything was seen before.
      if (response.headers.get("content-type")?.startsWith("text/event-stream") !== true) return;
    } catch (error) {
      if (signal?.aborted === true) throw signal.reason;
      const isTransport = !(error instanceof WaverError) || error.code === "daemon_unreachable";
      if (!isTransport || performance.now() - lastHeard > patience * 1000) throw error;
    } finally {
      signal?.removeEventListener("abort", stop);
      abort.abort();
    }
    await Bun.sleep(RETRY_MS);
  }
}

async function* parse(response: Response): AsyncGenerator<JobEvent> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const data = text
        .slice(0, end)
        .split("\n")
        .filter((line) => line.startsWith("data: "))
        .map((line) => line.slice("data: ".length));
      text = text.slice(end + 2);
      if (data.length > 0) yield JSON.parse(data.join("\n")) as JobEvent;
    }
  }
}
