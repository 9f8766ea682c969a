/**
 * What every request passes before any router sees it: exact host, known method, same origin, token, JSON only, size.
 * It runs in the raw fetch handler, because a router that looks for the path in the URL can be led astray by the host
 * (reliability.md fact 2). The order matters: nothing is read from a request that may not speak to us.
 */
import { ERROR_CODES, type ErrorBody, type ErrorCode } from "../../plugins/errors.ts";
import { FORBIDDEN, parseJson } from "./json.ts";
import { mayWrite, type Sessions, sameSecret, sessionIn } from "./sessions.ts";
import { Upload } from "./uploads.ts";

export interface GateOptions {
  /** Exact values of the Host header. */
  readonly hosts: ReadonlySet<string>;
  /** Exact values of the Origin header: pages that we serve ourselves. */
  readonly origins: ReadonlySet<string>;
  /** Asked of every request when set (TCP); the unix socket is guarded by its folder. */
  readonly token: string | null;
  /** Sessions of our own pages, in place of the token; null where there are none (the socket). */
  readonly sessions: Sessions | null;
  /** `METHOD path` that needs neither: pages without data, and the exchange of a ticket for a session. */
  readonly open: ReadonlySet<string>;
  /** `METHOD path` whose body may be multipart, where a page of another site cannot send it: see `checkBody`. */
  readonly multipart: ReadonlySet<string>;
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
    if (sessionOf(request, options) && namesOutput(read.body))
      return refuse(
        "forbidden",
        "the session of a page writes no files by path",
        "leave output out: the result is in the store",
      );
    return secured(await next(request, read.body));
  };

/** Whether a page of ours asks, by its session and without the token. */
function sessionOf({ headers }: Request, { sessions }: GateOptions): boolean {
  if (sessions === null || headers.get("authorization") !== null) return false;
  const session = sessionIn(headers.get("cookie"), headers.get("host") ?? "");
  return session !== null && sessions.has(session);
}

const namesOutput = (body: unknown): boolean =>
  body !== null && typeof body === "object" && Object.hasOwn(body, "output");

function checkHead(request: Request, options: GateOptions): Response | null {
  const { hosts, origins } = options;
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
  return checkIdentity(request, options) ?? checkBody(request, options);
}

/** The token in a header, or the session of a page of ours. The host was checked: the URL's path is the request's. */
function checkIdentity(request: Request, options: GateOptions): Response | null {
  const { token, open } = options;
  const { headers, method } = request;
  const { pathname } = new URL(request.url);
  if (token === null || open.has(`${method} ${pathname}`)) return null;
  const given = headers.get("authorization");
  if (sessionOf(request, options)) {
    if (SAFE.has(method)) return null;
    // A browser says where an unsafe request comes from, and that was compared above; what says nothing is none.
    const isOurPage = headers.get("origin") !== null || headers.get("sec-fetch-site") === "same-origin";
    if (isOurPage && mayWrite(method, pathname)) return null;
    return refuse("forbidden", "the session of a page may not do this", "use the daemon's token");
  }
  if (given?.startsWith("Bearer ") === true && sameSecret(given.slice("Bearer ".length), token)) return null;
  return refuse(
    "unauthorized",
    "a token is needed",
    "send `Authorization: Bearer` and the content of the daemon's token file; for a browser, `waver open` prints an address",
    { "WWW-Authenticate": "Bearer" },
  );
}

/**
 * JSON alone: any page may send a form. Multipart is taken at a few addresses, and only from those who showed the token in a
 * header, which a page of another site cannot, or on the socket, which no browser reaches.
 */
function checkBody(request: Request, { token, multipart }: GateOptions): Response | null {
  const { headers, method } = request;
  if (method !== "POST") return null;
  const type = headers.get("content-type") ?? "";
  const takesForms =
    multipart.has(`POST ${new URL(request.url).pathname}`) && (token === null || headers.get("authorization") !== null);
  // The media type alone decides; a charset other than UTF-8 would be decoded wrongly.
  if (!JSON_TYPE.test(type) && !(takesForms && FORM_TYPE.test(type)))
    return refuse("unsupported_media_type", "bodies are JSON", "send `Content-Type: application/json`");
  if (headers.get("content-encoding") !== null) return refuse("unsupported_media_type", "bodies are not compressed");
  return Number(headers.get("content-length") ?? 0) > MAX_BODY ? tooLarge() : null;
}

const JSON_TYPE = /^application\/json[ \t]*(;[ \t]*charset="?utf-8"?[ \t]*)?$/i;
const FORM_TYPE = /^multipart\/form-data[ \t]*;[ \t]*boundary="?[\w'()+,./:=?-]{1,70}"?$/i;

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
  const type = request.headers.get("content-type") ?? "";
  const parsed = FORM_TYPE.test(type) ? await parseForm(Buffer.concat(chunks), type) : parseJson(Buffer.concat(chunks));
  return "problem" in parsed ? refuse("invalid_input", parsed.problem) : { body: parsed.value };
}

/** Texts and files by field; a field that comes twice is refused. */
async function parseForm(
  bytes: Uint8Array<ArrayBuffer>,
  type: string,
): Promise<{ value: unknown } | { problem: string }> {
  let form: FormData;
  try {
    form = await new Response(bytes, { headers: { "Content-Type": type } }).formData();
  } catch (error) {
    return { problem: `the body is not a form (${(error as Error).name})` };
  }
  const value: Record<string, unknown> = {};
  for (const [key, each] of form) {
    if (FORBIDDEN.has(key)) return { problem: `the key ${JSON.stringify(key)} is refused` };
    if (Object.hasOwn(value, key)) return { problem: `the field ${JSON.stringify(key.slice(0, 64))} comes twice` };
    value[key] = typeof each === "string" ? each : new Upload(await each.bytes());
  }
  return { value };
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
