/** The router: fixed routes, one route for all operations, and one shape for every failure. */
import { Elysia } from "elysia";
import { z } from "zod";
import { type ErrorBody, toWaverError, WaverError } from "../../plugins/errors.ts";
import type { Daemon } from "./daemon.ts";
import { errorResponse, type Passed, refuse } from "./gate.ts";
import { type Asked, IdempotencyKey, parsed, type Route } from "./route.ts";
import { ROUTES } from "./routes.ts";

const Priority = z
  .string()
  .regex(/^-?\d{1,3}$/, "a whole number from -100 to 100")
  .transform(Number)
  .refine((n) => Math.abs(n) <= 100, "a whole number from -100 to 100");

/**
 * Everything behind the gate. The router sees method and path only: it would otherwise read the body a second time and
 * guess at its type, parse cookies and merge queries, and each of those has been a way in (reliability.md fact 12).
 */
export function createApp(daemon: Daemon): Passed {
  const asked = new WeakMap<Request, Omit<Asked, "params">>();
  const app = new Elysia({ normalize: false });
  const handle =
    (answer: (asked: Asked) => Response | Promise<Response>) =>
    (context: { request: Request; params?: Record<string, string> }) => {
      const known = asked.get(context.request);
      if (known === undefined) throw new Error("a request came past the gate");
      return answered(daemon, () => answer({ ...known, params: context.params ?? {} }));
    };
  for (const route of ROUTES)
    app.route(
      route.method,
      route.path,
      handle((each) => route.handle(each, daemon)),
    );
  app.route(
    "POST",
    "/v1/:operation",
    handle((each) => operate(each, daemon)),
  );
  app.onError(({ request, code, error }) => (code === "NOT_FOUND" ? missing(request, daemon) : failed(daemon, error)));
  return (request, body) => {
    const { pathname, searchParams } = new URL(request.url);
    const bare = new Request(`http://localhost${pathname}`, { method: request.method });
    asked.set(bare, { request, query: searchParams, body });
    return app.fetch(bare);
  };
}

async function operate({ request, params, body }: Asked, daemon: Daemon): Promise<Response> {
  const { jobs } = daemon;
  const operation = jobs.operation(params["operation"] ?? "");
  if (operation.kind === "query")
    return Response.json((await jobs.query(operation.name, body, request.signal)) ?? null);
  const key = request.headers.get("idempotency-key");
  const priority = request.headers.get("waver-priority");
  const { view, created } = await jobs.submit({
    operation: operation.name,
    body,
    ...(key === null ? {} : { idempotencyKey: parsed(IdempotencyKey, key, "Idempotency-Key") }),
    ...(priority === null ? {} : { priority: parsed(Priority, priority, "Waver-Priority") }),
  });
  return Response.json(view, {
    status: 202,
    headers: { Location: `/v1/jobs/${view.id}`, ...(created ? {} : { "Idempotent-Replayed": "true" }) },
  });
}

async function answered(daemon: Daemon, answer: () => Response | Promise<Response>): Promise<Response> {
  try {
    return await answer();
  } catch (error) {
    return failed(daemon, error);
  }
}

/** Only what was said on purpose leaves the house; the rest is in the log, under a number that the answer names. */
function failed({ log }: Daemon, error: unknown): Response {
  const known = toWaverError(error);
  if (!(error instanceof WaverError) && known.code === "internal") {
    const id = crypto.randomUUID().slice(0, 8);
    log("error", "request_failed", { id, error });
    const body: ErrorBody = {
      code: "internal",
      message: "something went wrong inside the daemon",
      hint: `its log has the details under ${id}`,
    };
    return errorResponse(body);
  }
  return errorResponse(known.toBody(), known.code === "queue_full" ? { "Retry-After": "5" } : {});
}

function missing(request: Request, daemon: Daemon): Response {
  const { pathname } = new URL(request.url);
  const allowed = ROUTES.filter((route) => matches(route, pathname)).map((route): string => route.method);
  const name = /^\/v1\/([^/]+)$/.exec(pathname)?.[1];
  if (name !== undefined && daemon.registry().operations.has(name)) allowed.push("POST");
  if (allowed.length === 0)
    return refuse("not_found", "there is nothing at this address", "GET /openapi.json lists what there is");
  return refuse("method_not_allowed", `${request.method} is not used at this address`, undefined, {
    Allow: allowed.join(", "),
  });
}

function matches(route: Route, pathname: string): boolean {
  const wanted = route.path.split("/");
  const given = pathname.split("/");
  return wanted.length === given.length && wanted.every((part, i) => part.startsWith(":") || part === given[i]);
}
