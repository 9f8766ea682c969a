/** The way of a browser to our pages: a ticket, once; a session, and what it may not do (reliability.md S2, S4). */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROUTES } from "../../daemon/http/routes.ts";
import { mayWrite, Sessions } from "../../daemon/http/sessions.ts";
import { type TestDaemon, testDaemon } from "../support/daemon.ts";

let host: TestDaemon;
let url: string;
let token: string;
beforeAll(async () => {
  host = await testDaemon({ set: { tcp: { host: "127.0.0.1", port: 0 } } });
  url = host.daemon.addresses[1] ?? "";
  token = readFileSync(join(host.home, "token"), "utf8").trim();
});
afterAll(() => host[Symbol.asyncDispose]());

const post = (path: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(url + path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", ...headers },
  });
const minted = async (): Promise<string> => {
  const answer = await post("/v1/session/tickets", {}, { Authorization: `Bearer ${token}` });
  const { path } = (await answer.json()) as { path: string };
  expect(path).toMatch(/^\/open#[0-9a-f]{64}$/);
  return path.slice("/open#".length);
};
/** The cookie of a new session, as a browser sends it back. */
const session = async (): Promise<string> => {
  const answer = await post("/v1/session", { ticket: await minted() });
  expect(answer.status).toBe(200);
  return (answer.headers.get("set-cookie") ?? "").split(";")[0] as string;
};

describe("a ticket", () => {
  test("buys one session, whose cookie no script and no other site gets", async () => {
    const ticket = await minted();
    const first = await post("/v1/session", { ticket });
    const cookie = first.headers.get("set-cookie") ?? "";
    for (const word of ["HttpOnly", "SameSite=Strict", "Path=/", `waver_session_${new URL(url).port}=`])
      expect(cookie).toContain(word);
    const again = await post("/v1/session", { ticket });
    expect([again.status, again.headers.get("set-cookie")]).toEqual([401, null]);
    for (const wrong of ["0".repeat(64), token, "", "../", 7])
      expect([401, 422]).toContain((await post("/v1/session", { ticket: wrong })).status);
  });

  test("is minted for who has the token, not for a session, and not from another site", async () => {
    expect((await post("/v1/session/tickets", {})).status).toBe(401);
    const Cookie = await session();
    expect((await post("/v1/session/tickets", {}, { Cookie, Origin: url })).status).toBe(403);
    expect((await post("/v1/session", { ticket: await minted() }, { Origin: "https://evil.example" })).status).toBe(
      403,
    );
    const form = await fetch(`${url}/v1/session`, {
      method: "POST",
      body: new URLSearchParams({ ticket: await minted() }),
    });
    expect(form.status).toBe(415);
  });

  test("is late after a minute, a session after half a day", () => {
    let now = 0;
    const sessions = new Sessions(() => now);
    const { ticket } = sessions.mint();
    now = 61_000;
    expect(sessions.redeem(ticket)).toBeNull();
    const kept = sessions.redeem(sessions.mint().ticket) as string;
    now += 12 * 3600_000 - 1;
    expect(sessions.has(kept)).toBe(true);
    now += 2;
    expect(sessions.has(kept)).toBe(false);
  });

  test("cannot be minted without end", () => {
    const sessions = new Sessions();
    const { ticket: first } = sessions.mint();
    const many = Array.from({ length: 100 }, () => sessions.mint().ticket);
    expect(sessions.redeem(first)).toBeNull();
    expect(sessions.redeem(many.at(-1) as string)).not.toBeNull();
  });
});

describe("a session", () => {
  test("may look everywhere", async () => {
    const Cookie = await session();
    for (const path of ["/generate", "/v1/status", "/v1/jobs", "/v1/operations", "/"])
      expect((await fetch(url + path, { headers: { Cookie } })).status).toBe(200);
  });

  test("may generate from our own page, and change nothing else", async () => {
    const Cookie = await session();
    const writes = ROUTES.filter(({ method }) => method !== "GET").map(({ method, path }) => ({
      method,
      path: path.replace(":id", "job_0000000000000000").replace(":video", "video_0000000000000000"),
    }));
    const operations = ["echo", "steps", "ask", "plugins-add", "generate", "models-list"].map((name) => ({
      method: "POST" as const,
      path: `/v1/${name}`,
    }));
    let allowed = 0;
    for (const { method, path } of [...writes, ...operations]) {
      if (path === "/v1/session") continue;
      const send = (headers: Record<string, string>): Promise<Response> =>
        fetch(url + path, { method, headers: { Cookie, "Content-Type": "application/json", ...headers } });
      const own = (await send({ Origin: url, "Sec-Fetch-Site": "same-origin" })).status;
      if (mayWrite(method, path)) {
        allowed++;
        expect([200, 202, 404, 422]).toContain(own);
      } else expect(own).toBe(403);
      // no browser of ours: it would say where it comes from
      expect((await send({})).status).toBe(403);
      expect((await send({ Origin: "http://127.0.0.1:1" })).status).toBe(403);
      expect((await send({ "Sec-Fetch-Site": "same-site" })).status).toBe(403);
    }
    expect(allowed).toBeGreaterThan(4);
    expect((await host.client.status()).pid).toBeGreaterThan(0);
  });

  test("is not what it looks like when it is doubled, cut, of another port or made up", async () => {
    const Cookie = await session();
    const [name, value] = Cookie.split("=") as [string, string];
    for (const wrong of [
      `${Cookie}; ${Cookie}`,
      `${name}=${value.slice(1)}`,
      `waver_session_1=${value}`,
      `${name}=`,
      value,
    ])
      expect((await fetch(`${url}/v1/status`, { headers: { Cookie: wrong } })).status).toBe(401);
    // a wrong token is not made good by a session
    expect((await fetch(`${url}/v1/status`, { headers: { Cookie, Authorization: "Bearer x" } })).status).toBe(401);
  });

  test("writes no file by its path", async () => {
    const headers = { Cookie: await session(), Origin: url };
    const answer = await post(
      "/v1/generate",
      { prompt: "x", model: "m", output: join(host.home, "written.mp4") },
      headers,
    );
    expect([answer.status, ((await answer.json()) as { message: string }).message]).toEqual([
      403,
      expect.stringContaining("writes no files"),
    ]);
    // who has the token may
    const own = await post("/v1/generate", { output: "x" }, { Authorization: `Bearer ${token}` });
    expect(own.status).not.toBe(403);
  });

  test("sends no forms", async () => {
    const form = new FormData();
    form.set("prompt", "x");
    const headers = { Cookie: await session(), Origin: url };
    expect((await fetch(`${url}/v1/videos`, { method: "POST", body: form, headers })).status).toBe(415);
  });
});

describe("what needs no token", () => {
  const open = ROUTES.filter((route) => route.open === true);

  test("is a page and its parts, which hold nothing of this machine", async () => {
    expect(open.map(({ method, path }) => `${method} ${path}`).sort()).toEqual([
      "GET /open",
      "GET /web/form.js",
      "GET /web/generate.js",
      "GET /web/open.js",
      "GET /web/style.css",
      "POST /v1/session",
    ]);
    for (const { method, path } of open) {
      if (method !== "GET") continue;
      const answer = await fetch(url + path);
      expect(answer.status).toBe(200);
      const text = await answer.text();
      expect(text).not.toContain(host.home);
      expect(text).not.toContain(token);
      const policy = answer.headers.get("content-security-policy") ?? "";
      expect(policy).toContain("default-src 'none'");
      expect(policy).not.toContain("unsafe");
    }
  });

  test("is as closed as the rest to other hosts and sites", async () => {
    for (const path of ["/open", "/web/open.js"]) {
      expect((await fetch(url + path, { headers: { Host: "evil.example" } })).status).toBe(403);
      expect((await fetch(url + path, { headers: { Origin: "https://evil.example" } })).status).toBe(403);
    }
    for (const path of [
      "/open/",
      "//generate",
      "/web/",
      "/web/../v1/status",
      "/web/%2e%2e/v1/status",
      "/generate",
      "/OPEN",
    ])
      expect((await fetch(url + path)).status).toBe(401);
  });

  test("pages have no script and no style of their own", async () => {
    const Cookie = await session();
    for (const path of ["/open", "/generate"]) {
      const text = await (await fetch(url + path, { headers: { Cookie } })).text();
      expect(text).not.toMatch(/<style|<script(?![^>]*src=)|\son\w+=|style=/);
    }
  });
});
