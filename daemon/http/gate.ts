/**
 * What every request passes before any router sees it: exact host, known method, same origin, token, JSON only, size.
 * It runs in the raw fetch handler, because a router that looks for the path in the URL can be led astray by the host
 * (reliability.md fact 2). The order matters: nothing is read from a request that may not speak to us.
 */
import { timingSafeEqual } from "node:crypto";
import { ERROR_CODES, type ErrorBody, type ErrorCode } from "../../plugins/errors.ts";
import { parseJson } from "./json.ts";

export interface GateOptions {
  /** Exact values of the Host header. */
  readonly hosts: ReadonlySet<string>;
  /** Exact values of the Origin header: pages that we serve ourselves. */
  readonly origins: ReadonlySet<string>;
  /** Asked of every request when set (TCP); the unix socket is guarded by its folder. */
  readonly token: string | null;
}

/** A request that passed, with its parsed body. */
export type Passed = (request: Request, body: unknown) => Response | Promise<Response>;

export const MAX_BODY = 8 << 20;
const SAFE: ReadonlySet<string> = new Set(["GET", "HEAD"]);
const METHODS: ReadonlySet<string> = new Set(["GET", "HEAD", "POST", "DELETE"]);

export const gate =
  (options: GateOptions, next: Passed) =>
  async (request: Request): Promise<Response> => {
    const refusal = checkHead(request, options);
    if (refusal !== null) return refusal;
    if (request.method !== "POST") return secured(await next(request, undefined));
    const read = await readBody(request);
    if (read instanceof Response) return read;
    return secured(await next(request, read.body));
  };

function checkHead(request: Request, { hosts, origins, token }: GateOptions): Response | null {
  const { headers, method } = request;
  // Missing and doubled headers (joined by ", ") are no members either.
  if (!hosts.has(headers.get("host") ?? ""))
    return refuse("forbidden", "this host name is not served here", "use the address that `waver status` prints");
  if (!METHODS.has(method))
    return refuse("method_not_allowed", `${method} is not used here`, undefined, { Allow: [...METHODS].join(", ") });
  const origin = headers.get("origin");
  if (origin !== null && !origins.has(origin)) return refuse("forbidden", "requests of other sites' pages are refused");
  const site = headers.get("sec-fetch-site");
  // A page may be opened from anywhere (a typed address, a link); everything that does something may not.
  const isOpening = SAFE.has(method) && headers.get("sec-fetch-mode") === "navigate";
  if (site !== null && site !== "same-origin" && site !== "none" && !isOpening)
    return refuse("forbidden", "requests of other sites' pages are refused");
  if (token !== null && !sameToken(headers.get("authorization"), token))
    return refuse(
      "unauthorized",
      "a token is needed",
      "send `Authorization: Bearer` and the content of the daemon's token file",
      { "WWW-Authenticate": "Bearer" },
    );
  if (method === "POST") {
    const type = headers.get("content-type") ?? "";
    // The media type alone decides; a charset other than UTF-8 would be decoded wrongly.
    if (!/^application\/json[ \t]*(;[ \t]*charset="?utf-8"?[ \t]*)?$/i.test(type))
      return refuse("unsupported_media_type", "bodies are JSON", "send `Content-Type: application/json`");
    if (headers.get("content-encoding") !== null) return refuse("unsupported_media_type", "bodies are not compressed");
    if (Number(headers.get("content-length") ?? 0) > MAX_BODY) return tooLarge();
  }
  return null;
}

/** Constant time in the token: equal lengths are compared by digest. */
function sameToken(header: string | null, token: string): boolean {
  const given = header?.startsWith("Bearer ") === true ? header.slice("Bearer ".length) : "";
  const digest = (text: string): Uint8Array => new Bun.CryptoHasher("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(token)) && given !== "";
}

async function readBody(request: Request): Promise<{ body: unknown } | Response> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of request.body ?? []) {
      size += chunk.length;
      if (size > MAX_BODY) return tooLarge();
      chunks.push(chunk);
    }
  } catch (error) {
    // The client went away in the middle of its body: nobody reads this answer.
    return refuse("invalid_input", `the body broke off: ${(error as Error).name}`);
  }
  if (size === 0) return { body: {} };
  const parsed = parseJson(Buffer.concat(chunks));
  return "problem" in parsed ? refuse("invalid_input", parsed.problem) : { body: parsed.value };
}

const tooLarge = (): Response => refuse("too_large", `a body has at most ${MAX_BODY >> 20} MB`);

export function refuse(
  code: ErrorCode,
  message: string,
  hint?: string,
  headers: Record<string, string> = {},
): Response {
  return errorResponse({ code, message, ...(hint === undefined ? {} : { hint }) }, headers);
}

export const errorResponse = (body: ErrorBody, headers: Record<string, string> = {}): Response =>
  secured(Response.json(body, { status: ERROR_CODES[body.code], headers }));

/** No page of another site may frame, guess at or read what we answer. */
function secured(response: Response): Response {
  response.headers.set("X-Content-Type-Options", "nosniff");
  response.headers.set("Cross-Origin-Resource-Policy", "same-origin");
  response.headers.set("Referrer-Policy", "no-referrer");
  if (!response.headers.has("Cache-Control")) response.headers.set("Cache-Control", "no-store");
  if (!response.headers.has("Content-Security-Policy"))
    response.headers.set(
      "Content-Security-Policy",
      "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    );
  return response;
}
