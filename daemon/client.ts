/**
 * The typed client, `waver/client`: the same calls over the unix socket of this machine and over TCP.
 *
 *   const client = createClient();
 *   const job = await client.operations.generate({ prompt: "a red ball" });
 *   for await (const event of client.events(job.id)) console.log(event);
 *
 * Loads neither zod nor the daemon; types of the operations come from `bun daemon/client.ts --types`.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type ErrorBody, WaverError } from "../plugins/errors.ts";
import { readEvents } from "./client/sse.ts";
import { startDetached } from "./client/start.ts";
import { socketPath } from "./socket.ts";
import type { JobEvent, JobState, JobView, OperationsDoc, PluginDoc, Status } from "./wire.ts";

export interface ClientOptions {
  /** Home folder of the daemon; default: what the configuration says. */
  readonly home?: string;
  readonly socket?: string;
  /** TCP address, e.g. http://127.0.0.1:7999. */
  readonly url?: string;
  readonly token?: string;
}

export interface SubmitOptions {
  /** The same key with the same body gives the same job. Default: a random one, so that a retry after a lost answer is safe. */
  readonly idempotencyKey?: string;
  readonly priority?: number;
  readonly signal?: AbortSignal | undefined;
}

export interface EventsOptions {
  /** Number of the last event already seen. */
  readonly after?: number;
  readonly signal?: AbortSignal | undefined;
  /** Seconds without a daemon after which the stream fails. Default 60: a daemon that is restarted is waited for. */
  readonly patience?: number;
}

/** Bodies and outputs by operation; the generated .d.ts fills it in. */
// biome-ignore lint/suspicious/noEmptyInterface: filled in by declaration merging
export interface OperationTypes {}

type Known = keyof OperationTypes;
type Body<N> = N extends Known
  ? OperationTypes[N] extends { body: infer B }
    ? B
    : never
  : Readonly<Record<string, unknown>>;
type Answer<N> = N extends Known
  ? OperationTypes[N] extends { kind: "query"; output: infer O }
    ? O
    : OperationTypes[N] extends { output: infer O }
      ? JobView & { output?: O }
      : never
  : unknown;

/** One function an operation. A query resolves with its output, a job with the accepted job. */
export type Operations = { readonly [N in Known]: (body: Body<N>, options?: SubmitOptions) => Promise<Answer<N>> } & {
  readonly [name: string]: (body: Readonly<Record<string, unknown>>, options?: SubmitOptions) => Promise<never>;
};

export interface Client {
  readonly operations: Operations;
  /** Sends a body to an operation: a query's output, or the job that was accepted. */
  call(operation: string, body: unknown, options?: SubmitOptions): Promise<unknown>;
  submit(operation: string, body: unknown, options?: SubmitOptions): Promise<JobView>;
  job(id: string): Promise<JobView>;
  jobs(filter?: { state?: JobState; operation?: string; parent?: string; limit?: number }): Promise<JobView[]>;
  /** From the first event (or after `after`) to the terminal state; goes on by itself when the connection breaks. */
  events(id: string, options?: EventsOptions): AsyncGenerator<JobEvent>;
  /** The job when it is done; throws its error when it failed or was cancelled. */
  wait(id: string, options?: EventsOptions & { onEvent?: (event: JobEvent) => void }): Promise<JobView>;
  cancel(id: string): Promise<JobView>;
  logs(id: string, after?: number): Promise<{ lines: Extract<JobEvent, { type: "log" }>[]; last: number }>;
  status(signal?: AbortSignal): Promise<Status>;
  /** `null` when the operations are still those of this plugin set. */
  docs(known?: string): Promise<OperationsDoc | null>;
  plugins(): Promise<PluginDoc[]>;
  reloadPlugins(): Promise<PluginDoc[]>;
  doctor(): Promise<{
    ok: boolean;
    checks: { name: string; state: "ok" | "warn" | "missing"; found: string; cure?: string }[];
  }>;
  shutdown(): Promise<void>;
  /** Starts the daemon of this home when none answers, and waits until it is ready. */
  ensureDaemon(options?: { signal?: AbortSignal }): Promise<Status>;
  /** Any request, for what has no method here. Non-2xx answers are thrown. */
  request(method: string, path: string, more?: RequestMore): Promise<Response>;
}

interface RequestMore {
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
}

interface Address {
  readonly base: string;
  readonly unix: string | null;
  readonly token: string | null;
  readonly home: string | null;
}

export function createClient(options: ClientOptions = {}): Client {
  let known: Promise<Address> | null = null;
  const address = (): Promise<Address> => (known ??= addressOf(options));

  async function request(method: string, path: string, more: RequestMore = {}): Promise<Response> {
    const { base, unix, token } = await address();
    const headers: Record<string, string> = { ...more.headers };
    if (token !== null) headers["Authorization"] = `Bearer ${token}`;
    if (method === "POST") headers["Content-Type"] = "application/json";
    const init: BunFetchRequestInit = {
      method,
      headers,
      ...(method === "POST" ? { body: JSON.stringify(more.body ?? {}) } : {}),
      ...(more.signal === undefined ? {} : { signal: more.signal }),
      ...(unix === null ? {} : { unix }),
    };
    let response: Response;
    try {
      response = await fetch(base + path, init);
    } catch (error) {
      if (more.signal?.aborted === true) throw more.signal.reason;
      throw new WaverError("daemon_unreachable", "no daemon answers", {
        hint: "start it with `waver serve`",
        cause: error,
      });
    }
    if (response.ok || response.status === 304) return response;
    throw await failure(response);
  }

  const get = async <T>(path: string, signal?: AbortSignal): Promise<T> =>
    (await (await request("GET", path, { signal })).json()) as T;

  async function call(operation: string, body: unknown, how: SubmitOptions = {}): Promise<unknown> {
    const response = await request("POST", `/v1/${encodeURIComponent(operation)}`, {
      body,
      signal: how.signal,
      headers: {
        "Idempotency-Key": how.idempotencyKey ?? crypto.randomUUID(),
        ...(how.priority === undefined ? {} : { "Waver-Priority": String(how.priority) }),
      },
    });
    return response.json();
  }

  const events = (id: string, how: EventsOptions = {}): AsyncGenerator<JobEvent> =>
    readEvents(
      (after, signal) => request("GET", `/v1/jobs/${encodeURIComponent(id)}/events?after=${after}`, { signal }),
      how,
    );

  const client: Client = {
    call,
    operations: new Proxy({} as Operations, {
      // `then`: awaiting the proxy must not look like a promise.
      get: (_, name) =>
        typeof name === "string" && name !== "then"
          ? (body: unknown, how?: SubmitOptions) => call(name, body, how)
          : undefined,
    }),
    submit: async (operation, body, how) => (await call(operation, body, how)) as JobView,
    job: (id) => get(`/v1/jobs/${encodeURIComponent(id)}`),
    jobs: (filter = {}) => {
      const query = new URLSearchParams(
        Object.entries(filter).flatMap(([key, value]) => (value === undefined ? [] : [[key, String(value)]])),
      );
      return get(`/v1/jobs?${query}`);
    },
    events,
    wait: async (id, how = {}) => {
      for await (const event of events(id, how)) how.onEvent?.(event);
      const job = await client.job(id);
      if (job.state === "done") return job;
      throw job.error === undefined
        ? new WaverError("job_lost", `the job ${id} is ${job.state}`)
        : WaverError.fromBody(job.error as ErrorBody);
    },
    cancel: async (id) => (await (await request("DELETE", `/v1/jobs/${encodeURIComponent(id)}`)).json()) as JobView,
    logs: (id, after = 0) => get(`/v1/jobs/${encodeURIComponent(id)}/logs?after=${after}`),
    status: (signal) => get("/v1/status", signal),
    docs: async (pluginSet) => {
      const response = await request(
        "GET",
        "/v1/operations",
        pluginSet === undefined ? {} : { headers: { "If-None-Match": `"${pluginSet}"` } },
      );
      return response.status === 304 ? null : ((await response.json()) as OperationsDoc);
    },
    plugins: () => get("/v1/plugins"),
    reloadPlugins: async () => (await (await request("POST", "/v1/plugins/reload")).json()) as PluginDoc[],
    doctor: () => get("/v1/doctor"),
    shutdown: async () => {
      await request("POST", "/v1/shutdown");
    },
    ensureDaemon: async ({ signal } = {}) => {
      const { unix, home } = await address();
      if (unix === null) return client.status(signal);
      return startDetached({
        home,
        main: join(import.meta.dir, "main.ts"),
        probe: (until) => client.status(until),
        signal,
      });
    },
    request,
  };
  return client;
}

async function addressOf(options: ClientOptions): Promise<Address> {
  const { url, socket, home } = options;
  if (url !== undefined)
    return { base: url.replace(/\/$/, ""), unix: null, token: options.token ?? tokenBeside(home), home: home ?? null };
  if (socket !== undefined) return { base: "http://localhost", unix: socket, token: null, home: home ?? null };
  // A home alone may still have its socket set in a configuration file, but then the caller knows that file too.
  if (home !== undefined) return { base: "http://localhost", unix: socketPath(home), token: null, home };
  // Only now: reading configuration costs more than a request.
  const { loadConfig } = await import("./config.ts");
  const config = await loadConfig();
  return { base: "http://localhost", unix: config.socket, token: null, home: config.home };
}

function tokenBeside(home: string | undefined): string | null {
  if (home === undefined) return null;
  const path = join(home, "token");
  return existsSync(path) ? readFileSync(path, "utf8").trim() : null;
}

async function failure(response: Response): Promise<WaverError> {
  const text = await response.text();
  try {
    const body = JSON.parse(text) as Partial<ErrorBody>;
    if (typeof body.code === "string" && typeof body.message === "string")
      return WaverError.fromBody(body as ErrorBody);
  } catch (error) {
    return new WaverError(
      "daemon_unreachable",
      `something that is not a daemon answered with status ${response.status}`,
      { cause: error },
    );
  }
  return new WaverError("daemon_unreachable", `something that is not a daemon answered with status ${response.status}`);
}

if (import.meta.main) {
  const { printTypes } = await import("./client/types.ts");
  const client = createClient();
  if (!process.argv.includes("--types")) throw new WaverError("unknown_option", "usage: bun daemon/client.ts --types");
  await client.ensureDaemon();
  const docs = await client.docs();
  if (docs !== null) process.stdout.write(printTypes(docs));
}
