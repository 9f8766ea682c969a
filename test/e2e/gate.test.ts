import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, readFileSync, rmSync, statSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { createClient } from "../../daemon/client.ts";
import { startDaemon } from "../../daemon/main.ts";
import { type TestDaemon, temporaryHome, testDaemon } from "../support/daemon.ts";
import { standinConfig, standinProgram, standinRegistry } from "../support/standin-registry.ts";

let host: TestDaemon;
let url: string;
let token: string;
beforeAll(async () => {
  host = await testDaemon({ set: { tcp: { host: "127.0.0.1", port: 0 } } });
  url = host.daemon.addresses[1] ?? "";
  token = readFileSync(join(host.home, "token"), "utf8").trim();
});
afterAll(() => host[Symbol.asyncDispose]());

const socket = (): string => join(host.home, "run", "daemon.sock");
const onSocket = (path: string, init: RequestInit = {}): Promise<Response> =>
  fetch(`http://localhost${path}`, { ...init, unix: socket() } as BunFetchRequestInit);
const onTcp = (path: string, init: RequestInit = {}): Promise<Response> =>
  fetch(url + path, {
    ...init,
    headers: { Authorization: `Bearer ${token}`, ...(init.headers as Record<string, string>) },
  });
const body = async (
  response: Response,
): Promise<{ code: string; message: string; data?: { issues: { path: unknown[]; message: string }[] } }> =>
  (await response.json()) as never;

/** A request as raw bytes: what fetch would not send. */
const raw = (lines: readonly string[]): Promise<string> =>
  new Promise((resolve, reject) => {
    const { port } = new URL(url);
    const connection = connect(Number(port), "127.0.0.1");
    let text = "";
    connection.on("data", (chunk) => {
      text += chunk.toString();
      connection.end();
    });
    connection.on("close", () => resolve(text));
    connection.on("error", reject);
    connection.write(`${lines.join("\r\n")}\r\n\r\n`);
  });
const statusOf = (answer: string): number => Number(/^HTTP\/1\.[01] (\d+)/.exec(answer)?.[1] ?? 0);

describe("the host of a request", () => {
  const hosts = [
    "evil.example",
    "a",
    "ab",
    "abc",
    "a.b",
    "LOCALHOST.evil",
    "0.0.0.0",
    "x.local",
    "127.0.0.1.",
    "localhost.",
    "localhost, evil.example",
    "[::1]",
  ];
  for (const name of hosts)
    test(`${name} is refused before any route`, async () => {
      for (const path of ["/v1/status", "/zzzz/v1/status", "/openapi.json", "/"]) {
        const answer = await raw([`GET ${path} HTTP/1.1`, `Host: ${name}`, `Authorization: Bearer ${token}`]);
        expect(statusOf(answer)).toBe(403);
      }
    });

  test("is asked for twice or not at all in vain", async () => {
    const { host: real } = new URL(url);
    expect([400, 403]).toContain(
      statusOf(
        await raw(["GET /v1/status HTTP/1.1", `Host: ${real}`, "Host: evil.example", `Authorization: Bearer ${token}`]),
      ),
    );
    expect([0, 400, 403]).toContain(statusOf(await raw(["GET /v1/status HTTP/1.1", `Authorization: Bearer ${token}`])));
    expect(statusOf(await raw(["GET /v1/status HTTP/1.1", `Host: ${real}`, `Authorization: Bearer ${token}`]))).toBe(
      200,
    );
  });

  test("is checked on the socket too", async () => {
    const response = await onSocket("/v1/status", { headers: { Host: "evil.example" } });
    expect(response.status).toBe(403);
  });
});

describe("a page of another site", () => {
  test("can neither read nor do anything", async () => {
    for (const origin of ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
      for (const method of ["GET", "POST", "DELETE"])
        expect(
          (await onTcp("/v1/jobs", { method, headers: { Origin: origin, "Content-Type": "application/json" } })).status,
        ).toBe(403);
    for (const site of ["cross-site", "same-site"])
      expect(
        (
          await onTcp("/v1/shutdown", {
            method: "POST",
            headers: { "Sec-Fetch-Site": site, "Content-Type": "application/json" },
          })
        ).status,
      ).toBe(403);
  });

  test("of our own can", async () => {
    expect((await onTcp("/v1/status", { headers: { Origin: url, "Sec-Fetch-Site": "same-origin" } })).status).toBe(200);
  });
});

describe("the token", () => {
  test("is needed on TCP, on every route", async () => {
    const wrong = [
      undefined,
      "",
      "Bearer ",
      "Bearer wrong",
      `Bearer ${token.slice(1)}`,
      `bearer${token}`,
      `Basic ${token}`,
    ];
    for (const path of ["/", "/v1/status", "/v1/jobs", "/openapi.json", "/nothing"])
      for (const each of wrong) {
        const response = await fetch(url + path, { headers: each === undefined ? {} : { Authorization: each } });
        expect(response.status).toBe(401);
        expect(await response.text()).not.toContain(token);
      }
    expect((await fetch(`${url}/v1/status?token=${token}`)).status).toBe(401);
    expect((await onTcp("/v1/status")).status).toBe(200);
  });

  test("lies in a file of its owner, the socket in a folder of its owner", () => {
    expect(statSync(join(host.home, "token")).mode & 0o777).toBe(0o600);
    expect(statSync(socket()).mode & 0o777).toBe(0o600);
    expect(statSync(join(host.home, "run")).mode & 0o777).toBe(0o700);
  });

  test("in a file that others can read stops the start, as does an address that others can reach", async () => {
    const home = temporaryHome();
    await Bun.write(join(home, "token"), "x".repeat(64));
    chmodSync(join(home, "token"), 0o644);
    const start = async (address: string): Promise<unknown> =>
      startDaemon({
        config: await standinConfig(home, { tcp: { host: address, port: 0 } }),
        load: async () => standinRegistry(),
        program: standinProgram(),
      });
    await expect(start("127.0.0.1")).rejects.toMatchObject({ code: "forbidden" });
    await expect(start("0.0.0.0")).rejects.toMatchObject({ code: "forbidden" });
    rmSync(home, { recursive: true, force: true });
  });

  test("serves the client over TCP", async () => {
    const client = createClient({ url, home: host.home });
    const job = await client.submit("echo", { text: "tcp" });
    expect((await client.wait(job.id)).state).toBe("done");
  });
});

describe("a body", () => {
  const post = (text: string, type = "application/json"): Promise<Response> =>
    onSocket("/v1/echo", { method: "POST", body: text, headers: { "Content-Type": type } });

  test("is JSON and says so", async () => {
    for (const type of [
      "text/plain",
      "application/x-www-form-urlencoded",
      "multipart/form-data; boundary=x",
      "application/json; charset=latin1",
      "application/jsonx",
    ])
      expect((await post('{"text":"a"}', type)).status).toBe(415);
    expect((await post('{"text":"a"}', "application/json; charset=UTF-8")).status).toBe(202);
  });

  test("that is broken, deep, poisoned or large is refused with one sentence", async () => {
    for (const text of [
      "{",
      "[1",
      '{"text":"a"} x',
      '"\uD800',
      `${"[".repeat(10_000)}1${"]".repeat(10_000)}`,
      '{"__proto__":{"a":1}}',
      '{"text":"a","x":{"constructor":1}}',
      "[1]",
      "null",
      "1e999",
    ]) {
      const response = await post(text);
      expect(response.status).toBe(422);
      expect((await body(response)).code).toMatch(/invalid_input|unknown_option/);
    }
    expect((await post(JSON.stringify({ text: "x".repeat(9 << 20) }))).status).toBe(413);
    expect(({} as { a?: number }).a).toBeUndefined();
  });

  test("with a wrong field is answered with the field", async () => {
    const wrong = await body(await post('{"text":7}'));
    expect([wrong.code, wrong.data?.issues[0]?.path]).toEqual(["invalid_input", ["text"]]);
    expect((await body(await post('{"text":"a","more":1}'))).code).toBe("unknown_option");
    expect((await body(await onSocket("/v1/jobs?state=odd"))).data?.issues[0]?.path).toEqual(["query", "state"]);
    expect((await body(await onSocket("/v1/jobs?limt=1"))).code).toBe("unknown_option");
    expect((await body(await onSocket("/v1/jobs/..%2f..%2fetc"))).data?.issues[0]?.path).toEqual(["id"]);
    expect((await body(await onSocket("/v1/artifacts/sha256:..%2f/content"))).code).toBe("invalid_input");
  });
});

describe("methods and addresses", () => {
  test("a wrong method is told which are right", async () => {
    const wrong = await onSocket("/v1/jobs", { method: "DELETE" });
    expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "GET"]);
    expect((await onSocket("/v1/echo")).headers.get("allow")).toBe("POST");
    for (const method of ["PUT", "PATCH", "OPTIONS"]) expect((await onSocket("/v1/jobs", { method })).status).toBe(405);
  });

  test("unknown things are not found", async () => {
    expect((await body(await onSocket("/nothing"))).code).toBe("not_found");
    expect(
      (
        await body(
          await onSocket("/v1/nothing", {
            method: "POST",
            body: "{}",
            headers: { "Content-Type": "application/json" },
          }),
        )
      ).code,
    ).toBe("unknown_operation");
    expect((await body(await onSocket("/v1/jobs/job_0000000000000000"))).code).toBe("not_found");
    expect((await onSocket(`/v1/artifacts/sha256:${"0".repeat(64)}`)).status).toBe(404);
  });

  test("no answer names a folder of ours or a line of code", async () => {
    for (const path of [
      "/nothing",
      "/v1/jobs/x",
      "/v1/artifacts/x",
      "/v1/doctor",
      "/openapi.json",
      "/v1/operations",
      "/",
    ]) {
      const text = await (await onSocket(path)).text();
      expect(text).not.toContain(import.meta.dir.replace(/test.e2e$/, ""));
      expect(text).not.toMatch(/ {4}at |0x[0-9a-f]{6}/);
    }
  }, 60_000);

  test("the OpenAPI document has every operation and every fixed route", async () => {
    const document = (await (await onSocket("/openapi.json")).json()) as {
      openapi: string;
      paths: Record<string, Record<string, unknown>>;
    };
    expect(document.openapi).toBe("3.1.0");
    for (const name of standinRegistry().operations.keys())
      expect(document.paths[`/v1/${name}`]?.["post"]).toBeDefined();
    for (const path of ["/v1/jobs", "/v1/jobs/{id}/events", "/v1/artifacts/{digest}/content"])
      expect(document.paths[path]?.["get"]).toBeDefined();
  });

  test("the list of operations is not sent twice", async () => {
    const { pluginSet } = (await host.client.docs()) ?? { pluginSet: "" };
    expect(await host.client.docs(pluginSet)).toBeNull();
  });
});
