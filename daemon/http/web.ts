/**
 * The pages of daemon/web and what they need beside the API: a way in for a browser, and a place for pictures that a person
 * chooses. Scripts and styles are files of ours alone; nothing inline runs (CSP), so no prompt or file name can.
 */
import { join } from "node:path";
import { z } from "zod";
import { WaverError } from "../../plugins/errors.ts";
import { type Asked, parsed, type Route } from "./route.ts";
import { setCookie } from "./sessions.ts";

const FOLDER = join(import.meta.dir, "../web");
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; connect-src 'self'; " +
  "frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const HTML = "text/html; charset=utf-8";
/** Everything that is served, by its address's last part. */
const FILES: Readonly<Record<string, string>> = {
  "open.html": HTML,
  "generate.html": HTML,
  "style.css": "text/css; charset=utf-8",
  "open.js": "text/javascript; charset=utf-8",
  "generate.js": "text/javascript; charset=utf-8",
  "form.js": "text/javascript; charset=utf-8",
};
const texts = new Map<string, Promise<string>>();

/** Browsers read JavaScript: our TypeScript without its types. */
async function textOf(name: string): Promise<string> {
  if (!name.endsWith(".js")) return Bun.file(join(FOLDER, name)).text();
  const source = await Bun.file(join(FOLDER, name.replace(/\.js$/, ".ts"))).text();
  return new Bun.Transpiler({ loader: "ts", target: "browser" }).transformSync(source).replaceAll('.ts";', '.js";');
}

async function served(name: string): Promise<Response> {
  const type = FILES[name] as string;
  const text = texts.get(name) ?? textOf(name);
  texts.set(name, text);
  return new Response(await text, { headers: { "Content-Type": type, "Content-Security-Policy": CSP } });
}

const file = (path: string, name: string, summary: string, open?: true): Route => ({
  method: "GET",
  path,
  summary,
  media: (FILES[name] as string).split(";")[0] as string,
  ...(open === undefined ? {} : { open }),
  handle: () => served(name),
});

const Ticket = z.strictObject({ ticket: z.string().regex(/^[0-9a-f]{64}$/, "64 hex digits") });
const Minted = z.object({ path: z.string(), seconds: z.int() });
const Picture = z.strictObject({ data: z.string().meta({ description: "a data URL: PNG, JPEG or WebP" }) });

/** A ticket travels behind the #, which browsers keep to themselves: it is in no log and in no Referer. */
const pathOf = (ticket: string): string => `/open#${ticket}`;
const hostOf = ({ request }: Asked): string => request.headers.get("host") ?? "";

export const WEB_ROUTES: readonly Route[] = [
  file("/generate", "generate.html", "a page to generate with"),
  file("/open", "open.html", "the page that exchanges a ticket for a session", true),
  ...["style.css", "open.js", "generate.js", "form.js"].map((name) =>
    file(`/web/${name}`, name, "a part of the pages", true),
  ),
  {
    method: "POST",
    path: "/v1/session/tickets",
    summary: "mints a ticket that opens the pages in one browser, once and within a minute",
    answer: Minted,
    handle: ({ body }, { sessions }) => {
      parsed(z.strictObject({}), body, "body");
      const { ticket, seconds } = sessions.mint();
      return Response.json({ path: pathOf(ticket), seconds });
    },
  },
  {
    method: "POST",
    path: "/v1/session",
    summary: "a session for a ticket, as a cookie",
    status: 200,
    open: true,
    body: Ticket,
    answer: z.object({}),
    handle: (asked, { sessions }) => {
      const session = sessions.redeem(parsed(Ticket, asked.body, "body").ticket);
      if (session === null)
        throw new WaverError("unauthorized", "this address was used before, or is older than a minute", {
          hint: "`waver open` prints a new one",
        });
      return Response.json({}, { headers: { "Set-Cookie": setCookie(hostOf(asked), session) } });
    },
  },
  {
    method: "POST",
    path: "/v1/uploads",
    summary: "keeps a picture for a week, so that a request may name its path",
    body: Picture,
    answer: z.object({ path: z.string() }),
    handle: ({ body }, { uploads }) =>
      Response.json({ path: uploads.picture(parsed(Picture, body, "body").data, "body.data") }),
  },
];
