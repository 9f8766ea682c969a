import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { WaverError } from "../plugins/errors.ts";
import { handDown, type LoadConfigOptions, loadConfig } from "./config.ts";
import { socketPath } from "./socket.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "waver-config-"));
});
afterEach(async () => rm(folder, { recursive: true, force: true }));

const load = (more: LoadConfigOptions = {}): ReturnType<typeof loadConfig> =>
  loadConfig({
    from: folder,
    ...more,
    env: { XDG_CONFIG_HOME: join(folder, "user"), XDG_DATA_HOME: join(folder, "data"), ...more.env },
  });
const write = (path: string, value: unknown): Promise<number> => Bun.write(join(folder, path), JSON.stringify(value));

test("everything has a default", async () => {
  expect(await load()).toMatchObject({
    home: join(folder, "data/waver"),
    device: "cpu",
    storage: { id: "local", root: join(folder, "data/waver/store") },
  });
});

test("flag beats environment beats project file beats user file", async () => {
  await write("user/waver/.waverrc.json", { keepAlive: 1, threads: 1, workers: 1, device: "cuda:1" });
  await write(".waverrc.json", { keepAlive: 2, threads: 2, workers: 2 });
  const config = await load({ env: { WAVER_KEEP_ALIVE: "3", WAVER_THREADS: "3" }, set: { keepAlive: 4 } });
  expect(config).toMatchObject({ keepAlive: 4, threads: 3, workers: 2, device: "cuda:1" });
});

test("a project file is found from below, and a plugin's manifest is none", async () => {
  await write(".waverrc.json", { threads: 7 });
  await mkdir(join(folder, "deep/er"), { recursive: true });
  await write("deep/er/package.json", { name: "x", waver: { plugin: "./index.ts", hookApi: "0.1" } });
  expect(await load({ from: join(folder, "deep/er") })).toMatchObject({ threads: 7 });
});

test("a wrong setting names its file and its field", async () => {
  await write(".waverrc.json", { keepAlive: "long" });
  await expect(load()).rejects.toThrow(/\.waverrc\.json is wrong: keepAlive/);
  await write(".waverrc.json", { keepalive: 3 });
  await expect(load()).rejects.toMatchObject({ code: "invalid_input", hint: expect.stringContaining("keepAlive") });
  await expect(load({ env: { WAVER_THREADS: "many" } })).rejects.toThrow("WAVER_THREADS is not a number");
});

test("the hash says what matters and no secret", async () => {
  const endpoint = { url: "http://localhost:1", model: "m" };
  const [a, b, c] = await Promise.all([
    load({ set: { endpoint: { ...endpoint, key: "one" } } }),
    load({ set: { endpoint: { ...endpoint, key: "two" } } }),
    load({ set: { threads: 9 } }),
  ]);
  expect(a.hash).toBe(b.hash);
  expect(a.hash).not.toBe(c.hash);
});

test("children get the same configuration; those of third parties no secrets", async () => {
  const config = await load({
    set: {
      endpoint: { url: "http://localhost:1", model: "m", key: "secret" },
      plugin: { mine: { a: 1 }, other: { password: "hidden" } },
    },
  });
  expect(await loadConfig({ env: handDown(config, { trusted: true }) })).toEqual(config);
  const guest = JSON.stringify(handDown(config, { trusted: false, plugin: "mine" }));
  expect(guest).not.toContain("secret");
  expect(guest).not.toContain("hidden");
  expect(JSON.parse((JSON.parse(guest) as Record<string, string>)["WAVER_RESOLVED_CONFIG"] as string)).toMatchObject({
    plugin: { mine: { a: 1 } },
    home: config.home,
  });
});

test("a file that cannot be read is named, in one sentence", async () => {
  const broken = {
    "waver.config.json": '{ "workers": ',
    ".waverrc.yaml": "workers: [",
    "waver.config.ts": 'throw new Error("boo")',
  };
  for (const [name, text] of Object.entries(broken)) {
    await Bun.write(join(folder, name), text);
    const error = await loadConfig({ from: folder, env: { XDG_CONFIG_HOME: folder } }).then(
      () => null,
      (reason: unknown) => reason as WaverError,
    );
    expect([error?.code, error?.message]).toEqual(["invalid_input", expect.stringContaining(join(folder, name))]);
    expect(error?.message).not.toContain("\n");
    await rm(join(folder, name));
  }
});

test("a socket's path is one the kernel takes", () => {
  expect(socketPath("/srv/waver")).toBe("/srv/waver/run/daemon.sock");
  expect(socketPath(`/${"deep/".repeat(40)}`).length).toBeLessThan(104);
});
