import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { printTypes, typeOf } from "../../daemon/client/types.ts";
import { createClient } from "../../daemon/client.ts";
import { type TestDaemon, testDaemon } from "../support/daemon.ts";
import { standinRegistry } from "../support/standin-registry.ts";

let host: TestDaemon;
beforeAll(async () => {
  host = await testDaemon();
});
afterAll(() => host[Symbol.asyncDispose]());

test("an operation is a function of the client", async () => {
  const ask = host.client.operations["ask"];
  expect(await ask?.({ text: "so" })).toEqual({ answer: "so?" } as never);
  const job = (await host.client.operations["echo"]?.({ text: "so" })) as unknown as { id: string };
  expect((await host.client.wait(job.id)).output).toMatchObject({ said: "so" });
});

test("an abandoned stream is an aborted one, and the job goes on", async () => {
  const { id } = await host.client.submit("steps", { steps: 20, ms: 20 });
  const abort = new AbortController();
  const reading = (async () => {
    for await (const _ of host.client.events(id, { signal: abort.signal })) abort.abort(new Error("enough"));
  })();
  await expect(reading).rejects.toThrow("enough");
  expect((await host.client.wait(id)).state).toBe("done");
});

test("an address where no daemon is gives one clear error", async () => {
  const nobody = createClient({ socket: join(host.home, "nobody.sock") });
  await expect(nobody.status()).rejects.toMatchObject({ code: "daemon_unreachable" });
});

test("an address where something else is gives one clear error", async () => {
  using other = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("<html>", { status: 502 }) });
  const client = createClient({ url: `http://127.0.0.1:${other.port}`, token: "x" });
  await expect(client.status()).rejects.toMatchObject({ code: "daemon_unreachable" });
});

test("JSON Schemas become types", () => {
  const schema = {
    type: "object",
    properties: {
      name: { type: "string", description: "what it is called" },
      size: { anyOf: [{ type: "integer" }, { const: "all" }] },
      tags: { type: "array", items: { enum: ["a", "b"] } },
      pair: { type: "array", prefixItems: [{ type: "number" }, { type: "boolean" }] },
      more: { type: "object", additionalProperties: { $ref: "#/$defs/node" } },
    },
    required: ["name"],
    additionalProperties: false,
    $defs: { node: { type: "object", properties: { next: { $ref: "#/$defs/node" } } } },
  };
  expect(typeOf(schema, schema)).toBe(`{
  /** what it is called */
  readonly name: string;
  readonly size?: number | "all";
  readonly tags?: readonly ("a" | "b")[];
  readonly pair?: readonly [number, boolean];
  readonly more?: Readonly<Record<string, {
    readonly next?: unknown;
  }>>;
}`);
});

test("the printed declarations type a call, and refuse a wrong one", async () => {
  const folder = mkdtempSync(join(tmpdir(), "waver-types-"));
  const root = join(import.meta.dir, "..", "..");
  try {
    const file = join(folder, "operations.d.ts");
    writeFileSync(file, printTypes(standinRegistry().docs()));
    writeFileSync(
      join(folder, "use.ts"),
      `import { createClient } from "waver/client";
const client = createClient();
const job = await client.operations.echo({ text: "a" });
const id: string = job.id;
// @ts-expect-error: a field that the operation does not have
await client.operations.echo({ text: 1 });
export { id };\n`,
    );
    const options = {
      extends: join(root, "tsconfig.json"),
      compilerOptions: {
        paths: { "waver/client": [join(root, "daemon", "client.ts")] },
        typeRoots: [join(root, "node_modules")],
      },
      include: [file, join(folder, "use.ts")],
      exclude: [],
    };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(options));
    const tsc = Bun.spawn(
      [process.execPath, join(root, "node_modules", "typescript", "bin", "tsc"), "--noEmit", "-p", folder],
      { stdout: "pipe" },
    );
    const lines = (await new Response(tsc.stdout).text())
      .split("\n")
      .filter((line) => line.includes("use.ts") || line.includes("operations.d.ts"));
    expect(lines).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 60_000);
