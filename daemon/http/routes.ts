/**
 * The fixed routes, as data: the router, the OpenAPI document and the answer to a wrong method are made from this one
 * list. Operations are not in it: they come and go with plugins and share one route.
 */
import { z } from "zod";
import { WaverError } from "../../plugins/errors.ts";
import { Digest, Lineage } from "../../plugins/types.ts";
import { JobEvent, JobId, JobState, JobView, OperationsDoc, PluginDoc, Status } from "../wire.ts";
import { Doctor } from "./doctor.ts";
import { eventStream } from "./events.ts";
import { openapi } from "./openapi.ts";
import { page } from "./page.ts";
import { type Asked, parsed, type Route } from "./route.ts";
import { VIDEO_ROUTES } from "./videos.ts";
import { WEB_ROUTES } from "./web.ts";

const count = (most: number): z.ZodType<number, string> =>
  z
    .string()
    .regex(/^\d{1,9}$/, "a whole number")
    .transform(Number)
    .refine((n) => n >= 0 && n <= most, `at most ${most}`);

const JobsQuery = z.strictObject({
  state: JobState.optional(),
  operation: z.string().max(64).optional(),
  parent: JobId.optional(),
  limit: count(1_000).optional().meta({ description: "most jobs in the answer, newest first; default 100" }),
});
const EventsQuery = z.strictObject({
  after: count(999_999_999).optional().meta({ description: "number of the last event already seen" }),
});
const LogsQuery = z.strictObject({ after: count(999_999_999).optional(), limit: count(10_000).optional() });
const None = z.strictObject({});

const json = (value: unknown, status = 200, headers: Record<string, string> = {}): Response =>
  Response.json(value, { status, headers });
const LogPage = z.object({ lines: z.array(JobEvent), last: z.int() });

const jobOf = ({ params }: Asked): JobId => parsed(JobId, params["id"], "id");
const queryOf = <T extends z.ZodObject>(schema: T, { query }: Asked): z.output<T> =>
  parsed(schema, Object.fromEntries(query), "query");

export const ROUTES: readonly Route[] = [
  {
    method: "GET",
    path: "/v1/operations",
    summary: "what this daemon can do: operations, providers and their options",
    answer: OperationsDoc,
    handle: ({ request }, { registry }) => {
      const docs = registry().docs();
      const tag = `"${docs.pluginSet}"`;
      if (request.headers.get("if-none-match") === tag)
        return new Response(null, { status: 304, headers: { ETag: tag } });
      return json(docs, 200, { ETag: tag });
    },
  },
  {
    method: "GET",
    path: "/v1/jobs",
    summary: "jobs, newest first",
    query: JobsQuery,
    answer: z.array(JobView),
    handle: async (asked, { jobs }) => {
      const { limit, ...filter } = queryOf(JobsQuery, asked);
      return json(await jobs.list({ ...filter, limit: limit ?? 100 }));
    },
  },
  {
    method: "GET",
    path: "/v1/jobs/:id",
    summary: "one job",
    answer: JobView,
    handle: async (asked, { jobs }) => json(await jobs.job(jobOf(asked))),
  },
  {
    method: "DELETE",
    path: "/v1/jobs/:id",
    summary: "cancels a job: it ends at its next step",
    status: 202,
    answer: JobView,
    handle: async (asked, { jobs }) => json(await jobs.cancel(jobOf(asked)), 202),
  },
  {
    method: "GET",
    path: "/v1/jobs/:id/events",
    summary:
      "what happens to a job, as server-sent events, up to its end; Last-Event-ID or ?after= goes on where a stream broke off",
    query: EventsQuery,
    media: "text/event-stream",
    handle: (asked, daemon) => {
      const { after } = queryOf(EventsQuery, asked);
      const last = asked.request.headers.get("last-event-id");
      const from = last === null ? (after ?? 0) : parsed(count(999_999_999), last, "Last-Event-ID");
      return eventStream(daemon, jobOf(asked), from, asked.request.signal);
    },
  },
  {
    method: "GET",
    path: "/v1/jobs/:id/logs",
    summary: "log lines of a job",
    query: LogsQuery,
    answer: LogPage,
    handle: async (asked, { jobs }) => {
      const { after, limit } = queryOf(LogsQuery, asked);
      return json(await jobs.logs(jobOf(asked), after ?? 0, limit ?? 1_000));
    },
  },
  {
    method: "GET",
    path: "/v1/jobs/:id/preview",
    summary:
      "a small picture of what a running job is making, when it has one; `detail.preview` of its progress says when there is a new one",
    media: "image/png",
    handle: async (asked, { jobs }) => {
      const picture = await jobs.preview(jobOf(asked));
      if (picture === null) throw new WaverError("not_found", "this job has no preview now");
      return new Response(picture, { headers: { "Content-Type": "image/png" } });
    },
  },
  {
    method: "GET",
    path: "/v1/status",
    summary: "processes, queue and listeners",
    answer: Status,
    handle: async (_, daemon) => json(await daemon.status()),
  },
  {
    method: "GET",
    path: "/v1/plugins",
    summary: "plugins, loaded or not, with the reason",
    answer: z.array(PluginDoc),
    handle: (_, { registry }) => json(registry().plugins),
  },
  {
    method: "POST",
    path: "/v1/plugins/reload",
    summary: "looks for plugins again",
    answer: z.array(PluginDoc),
    handle: async (asked, daemon) => {
      parsed(None, asked.body, "body");
      return json((await daemon.reload()).plugins);
    },
  },
  {
    method: "POST",
    path: "/v1/shutdown",
    summary: "stops the daemon; running jobs go on when it is started again",
    status: 202,
    answer: None,
    handle: (asked, daemon) => {
      parsed(None, asked.body, "body");
      daemon.stop();
      return json({}, 202);
    },
  },
  {
    method: "GET",
    path: "/v1/doctor",
    summary: "what was found on this machine, and the cure for each lack",
    answer: Doctor,
    handle: async (asked, daemon) => json(await daemon.doctor(asked.request.signal)),
  },
  {
    method: "GET",
    path: "/v1/artifacts/:digest",
    summary: "the lineage record of an artefact",
    answer: Lineage,
    handle: async (asked, { artifacts }) => {
      const digest = parsed(Digest, asked.params["digest"], "digest");
      const lineage = await artifacts.lineage(digest);
      if (lineage === null) throw new WaverError("not_found", `there is no artefact ${digest}`);
      return json(lineage);
    },
  },
  {
    method: "GET",
    path: "/v1/artifacts/:digest/content",
    summary: "the content of an artefact that is a file, whole or by range; of one that is a folder, its manifest",
    query: z.strictObject({
      path: z.string().max(1024).optional().meta({ description: "a file inside a folder artefact" }),
    }),
    media: "application/octet-stream",
    handle: async (asked, { artifacts }) => {
      const digest = parsed(Digest, asked.params["digest"], "digest");
      return artifacts.content(digest, asked.query.get("path"), asked.request.headers.get("range"));
    },
  },
  ...VIDEO_ROUTES,
  ...WEB_ROUTES,
  {
    method: "GET",
    path: "/openapi.json",
    summary: "this document",
    media: "application/json",
    handle: (_, { registry }) => json(openapi(registry().docs(), ROUTES)),
  },
  {
    method: "GET",
    path: "/",
    summary: "a page with operations and jobs",
    media: "text/html",
    handle: (_, daemon) => page(daemon),
  },
];

const named = (which: (route: Route) => boolean): ReadonlySet<string> =>
  new Set(ROUTES.filter(which).map(({ method, path }) => `${method} ${path}`));

/** What the gate, which stands before the router, has to know of addresses. */
export const DOORS = {
  open: named(({ open }) => open === true),
  multipart: named(({ multipart }) => multipart === true),
};
