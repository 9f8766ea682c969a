import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from "node:fs";
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

  test("in a request line of absolute form, in another letter case or with another port is no way in", async () => {
    const { host: real, port } = new URL(url);
    const ask = async (line: string, host: string): Promise<number> =>
      statusOf(await raw([line, `Host: ${host}`, `Authorization: Bearer ${token}`]));
    // Whoever names another host in the line itself is served only as the host header allows, and never by that name.
    for (const target of ["http://evil.example/v1/status", "http://a/v1/status", `http://evil.example:${port}/v1/jobs`])
      for (const name of ["evil.example", "a"]) expect([400, 403]).toContain(await ask(`GET ${target} HTTP/1.1`, name));
    for (const name of [
      `127.0.0.1:${Number(port) + 1}`,
      "127.0.0.1",
      "LOCALHOST.",
      `localhost:${port}.`,
      `${real}@evil`,
      ` `,
    ])
      expect([400, 403]).toContain(await ask("GET /v1/status HTTP/1.1", name));
    for (const path of ["//evil.example/v1/status", "//v1/status", "/v1/%73tatus/x", "/v1/status%2f.."])
      expect([400, 403, 404]).toContain(await ask(`GET ${path} HTTP/1.1`, real));
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
    // Nor may it be a link to a file of somebody's choice, or hold too little to be a secret.
    rmSync(join(home, "token"));
    await Bun.write(join(home, "elsewhere"), "y".repeat(64));
    chmodSync(join(home, "elsewhere"), 0o600);
    symlinkSync(join(home, "elsewhere"), join(home, "token"));
    await expect(start("127.0.0.1")).rejects.toMatchObject({ code: "forbidden" });
    rmSync(join(home, "token"));
    await Bun.write(join(home, "token"), "\n");
    chmodSync(join(home, "token"), 0o600);
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

describe("secrets and listeners", () => {
  test("the token is in no log, no argument and no environment of a child", async () => {
    const client = createClient({ url, home: host.home });
    await client.wait((await client.submit("echo", { text: "tcp" })).id);
    await fetch(`${url}/v1/status?token=${token}`);
    expect(readFileSync(join(host.home, "log", "daemon.log"), "utf8")).not.toContain(token);
    const children = readdirSync(join(host.home, "run", "processes")).map((name) => Number.parseInt(name, 10));
    expect(children.length).toBeGreaterThan(0);
    for (const pid of children)
      for (const part of ["cmdline", "environ"])
        expect(readFileSync(`/proc/${pid}/${part}`, "utf8")).not.toContain(token);
  });

  test.skipIf(process.platform !== "linux")(
    "TCP is this machine's alone, and without a wish there is none",
    async () => {
      const { port } = new URL(url);
      /** Local addresses in hexadecimal of this process's listening sockets. */
      const listening = (): string[] =>
        ["tcp", "tcp6"].flatMap((kind) =>
          readFileSync(`/proc/self/net/${kind}`, "utf8")
            .split("\n")
            .map((line) => line.trim().split(/\s+/))
            .flatMap(([, local = "", , state]) => (state === "0A" ? [local] : [])),
        );
      const hex = Number(port).toString(16).toUpperCase().padStart(4, "0");
      expect(listening().filter((each) => each.endsWith(`:${hex}`))).toEqual([`0100007F:${hex}`]);
      await using plain = await testDaemon();
      expect(plain.daemon.addresses.filter((each) => !each.startsWith("unix:"))).toEqual([]);
    },
  );
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
    const { host: real } = new URL(url);
    for (const method of ["TRACE", "CONNECT", "TRACK", "PROPFIND", "get", "DEBUG"]) {
      const answer = await raw([`${method} /v1/jobs HTTP/1.1`, `Host: ${real}`, `Authorization: Bearer ${token}`]);
      expect([method, [0, 400, 405, 501].includes(statusOf(answer))]).toEqual([method, true]);
      expect(answer).not.toContain(token);
    }
    // No door for web sockets.
    const upgrade = [
      "Connection: Upgrade",
      "Upgrade: websocket",
      "Sec-WebSocket-Version: 13",
      `Sec-WebSocket-Key: ${"A".repeat(22)}==`,
    ];
    const answer = await raw(["GET /v1/jobs HTTP/1.1", `Host: ${real}`, `Authorization: Bearer ${token}`, ...upgrade]);
    expect(statusOf(answer)).not.toBe(101);
    for (const method of ["PUT", "PATCH", "OPTIONS"]) expect((await onSocket("/v1/jobs", { method })).status).toBe(405);
  });

  test("an id that is decoded to a path, a link or a control character is no id", async () => {
    const ids = [
      ..."..%2f..%2fetc%2fpasswd job_%2e%2e%2f job_0000000000000000%00 job_000000000000000%0a %2e%2e ~ job_0000000000000000%2f..".split(
        " ",
      ),
      "job_0000000000000000%20",
      "JOB_0000000000000000",
      "x".repeat(4_000),
    ];
    for (const id of ids)
      for (const path of [`/v1/jobs/${id}`, `/v1/jobs/${id}/events`, `/v1/jobs/${id}/logs`]) {
        const response = await onSocket(path);
        expect([path.slice(0, 60), [400, 404, 422].includes(response.status)]).toEqual([path.slice(0, 60), true]);
      }
    const digests = [
      `sha256:${"0".repeat(63)}g`,
      `sha256:${"A".repeat(64)}`,
      `sha256%3a${"0".repeat(64)}%2f..`,
      `sha256:../${"0".repeat(61)}`,
    ];
    for (const digest of digests)
      for (const path of [`/v1/artifacts/${digest}`, `/v1/artifacts/${digest}/content`])
        expect([404, 422]).toContain((await onSocket(path)).status);
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
