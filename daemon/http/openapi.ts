/** OpenAPI 3.1 from the fixed routes and the registry's operations: the same schemas that check the requests. */
import { z } from "zod";
import { ErrorBodySchema, JobView, type OperationDoc, type OperationsDoc } from "../wire.ts";
import type { Route } from "./route.ts";

type Json = Record<string, unknown>;

const schemaOf = (schema: z.ZodType, io: "input" | "output" = "output"): Json => {
  const { $schema: _, ...json } = z.toJSONSchema(schema, { io, unrepresentable: "any", reused: "inline" }) as Json;
  return json;
};

const problem = (description: string): Json => ({
  description,
  content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } },
});
const problems = (...statuses: readonly number[]): Json =>
  Object.fromEntries(statuses.map((status) => [String(status), problem(REASONS[status] ?? "an error")]));

const REASONS: Readonly<Record<number, string>> = {
  401: "a token is needed (TCP only)",
  403: "the host or the origin of the request is not served",
  404: "there is no such thing",
  405: "the method is not used here",
  409: "it conflicts with something that exists",
  413: "the body is too large",
  415: "the body is not JSON",
  422: "the request is wrong; the message names the field",
  429: "too much is waiting",
  500: "the daemon or one of its processes failed",
  503: "the daemon is stopping",
};
const ALWAYS = [401, 403, 422, 429, 500, 503] as const;

export function openapi(docs: OperationsDoc, routes: readonly Route[]): Json {
  const paths: Record<string, Json> = {};
  const put = (path: string, method: string, item: Json): void => {
    paths[path] = { ...paths[path], [method]: item };
  };
  for (const route of routes) put(route.path.replace(/:(\w+)/g, "{$1}"), route.method.toLowerCase(), fixed(route));
  for (const operation of docs.operations) put(`/v1/${operation.name}`, "post", operationItem(operation));
  return {
    openapi: "3.1.0",
    info: {
      title: "waver",
      version: docs.version,
      description: "Raw video to an evaluated video-generation model. Long work is a job: 202, then its events.",
    },
    servers: [{ url: "/" }],
    security: [{}, { token: [] }],
    paths,
    components: {
      schemas: { Error: schemaOf(ErrorBodySchema), Job: schemaOf(JobView) },
      securitySchemes: {
        token: {
          type: "http",
          scheme: "bearer",
          description: "asked on TCP; the unix socket is guarded by its folder",
        },
      },
    },
  };
}

function fixed(route: Route): Json {
  const parameters: Json[] = [...route.path.matchAll(/:(\w+)/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema:
      name === "id"
        ? { type: "string", pattern: "^job_[0-9a-z]{16}$" }
        : name === "digest"
          ? { type: "string", pattern: "^sha256:[0-9a-f]{64}$" }
          : name === "video"
            ? { type: "string", pattern: "^video_[0-9a-z]{16}$" }
            : { type: "string" },
  }));
  if (route.query !== undefined)
    for (const [name, schema] of Object.entries(
      (schemaOf(route.query, "input")["properties"] ?? {}) as Record<string, Json>,
    ))
      parameters.push({ name, in: "query", required: false, schema });
  const content =
    route.answer === undefined
      ? { [route.media ?? "application/json"]: {} }
      : { "application/json": { schema: schemaOf(route.answer) } };
  return {
    summary: route.summary,
    operationId: `${route.method.toLowerCase()}${route.path.replace(/[^a-z]+/gi, "_")}`,
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(route.method === "POST"
      ? {
          requestBody: {
            content: bodyOf(route),
          },
        }
      : {}),
    responses: {
      [String(route.status ?? 200)]: { description: route.summary, content },
      ...problems(404, 405, ...(route.method === "POST" ? [413, 415] : []), ...ALWAYS),
    },
  };
}

function bodyOf({ body, multipart }: Route): Json {
  const schema =
    body === undefined ? { type: "object", additionalProperties: false, properties: {} } : schemaOf(body, "input");
  return { "application/json": { schema }, ...(multipart === true ? { "multipart/form-data": { schema } } : {}) };
}

function operationItem(operation: OperationDoc): Json {
  const isJob = operation.kind === "job";
  return {
    summary: operation.summary,
    operationId: operation.name,
    tags: [operation.plugin ?? "core"],
    ...(isJob
      ? {
          parameters: [
            {
              name: "Idempotency-Key",
              in: "header",
              required: false,
              description: "the same key with the same body gives the same job",
              schema: { type: "string", pattern: "^[\\x21-\\x7e]{1,200}$" },
            },
            {
              name: "Waver-Priority",
              in: "header",
              required: false,
              description: "higher runs first; default 0",
              schema: { type: "integer", minimum: -100, maximum: 100 },
            },
          ],
        }
      : {}),
    requestBody: { required: true, content: { "application/json": { schema: operation.input } } },
    responses: {
      ...(isJob
        ? {
            "202": {
              description: "accepted and on the disk; the job's output will be as in x-output",
              headers: { Location: { schema: { type: "string" } } },
              content: { "application/json": { schema: { $ref: "#/components/schemas/Job" } } },
            },
          }
        : { "200": { description: operation.summary, content: { "application/json": { schema: operation.output } } } }),
      ...problems(404, 405, 409, 413, 415, ...ALWAYS),
    },
    ...(isJob ? { "x-output": operation.output } : {}),
  };
}
