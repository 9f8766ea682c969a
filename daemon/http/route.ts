/** One address as data, and how text of a request becomes values. */
import { z } from "zod";
import { WaverError } from "../../plugins/errors.ts";
import type { Daemon } from "./daemon.ts";

/** A request that passed the gate. Parameters and query are text as they came; routes parse them. */
export interface Asked {
  readonly request: Request;
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  readonly body: unknown;
}

export interface Route {
  readonly method: "GET" | "POST" | "DELETE";
  /** `:name` stands for one segment. */
  readonly path: string;
  readonly summary: string;
  readonly query?: z.ZodObject;
  /** Of a POST; absent: an empty object. */
  readonly body?: z.ZodType;
  /** Whether the body may be a form as well. */
  readonly multipart?: true;
  /** Needs no token: pages without data, and the way to a session. */
  readonly open?: true;
  readonly status?: number;
  /** Schema of the answer; absent for streams, files and pages, whose media type is then named. */
  readonly answer?: z.ZodType;
  readonly media?: string;
  handle(asked: Asked, daemon: Daemon): Response | Promise<Response>;
}

export const IdempotencyKey = z.string().regex(/^[\x21-\x7e]{1,200}$/, "1 to 200 printable characters");

/** Parses text from the URL, or says which part of it is wrong. */
export function parsed<S extends z.ZodType>(schema: S, value: unknown, where: string): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const path = [where, ...(issue?.path ?? [])].join(".");
  throw new WaverError(
    issue?.code === "unrecognized_keys" ? "unknown_option" : "invalid_input",
    `${path}: ${issue?.message ?? "wrong"}`,
    {
      data: { issues: result.error.issues.map((each) => ({ path: [where, ...each.path], message: each.message })) },
    },
  );
}
