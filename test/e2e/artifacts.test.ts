import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openStore } from "../../plugins/storage-local/store.ts";
import type { Digest } from "../../plugins/types.ts";
import { type TestDaemon, testDaemon } from "../support/daemon.ts";

let host: TestDaemon;
let video: Digest;
let folder: Digest;
const record = { kind: "test", inputs: [], by: { operation: "test", version: "1" }, options: {} };
beforeAll(async () => {
  host = await testDaemon();
  await using store = await openStore(join(host.home, "store"));
  const source = join(host.home, "source");
  mkdirSync(join(source, "inner"), { recursive: true });
  writeFileSync(join(source, "inner", "a.txt"), "inside");
  writeFileSync(join(host.home, "clip.mp4"), "0123456789");
  video = await store.publish(join(host.home, "clip.mp4"), { ...record, name: "clip.mp4" });
  folder = await store.publish(source, record);
});
afterAll(() => host[Symbol.asyncDispose]());

const get = (path: string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`http://localhost/v1/artifacts/${path}`, { unix: join(host.home, "run", "daemon.sock"), headers });

test("an artefact has its lineage and its content, whole or by range", async () => {
  expect(await (await get(video)).json()).toMatchObject({ digest: video, kind: "test", bytes: 10 });
  const whole = await get(`${video}/content`);
  expect([whole.headers.get("content-type"), await whole.text()]).toEqual(["video/mp4", "0123456789"]);
  const ranges: [string, number, string, string | null][] = [
    ["bytes=2-4", 206, "234", "bytes 2-4/10"],
    ["bytes=7-", 206, "789", "bytes 7-9/10"],
    ["bytes=-2", 206, "89", "bytes 8-9/10"],
    ["bytes=0-99", 206, "0123456789", "bytes 0-9/10"],
    ["bytes=10-", 416, "", "bytes */10"],
    ["bytes=4-2", 416, "", "bytes */10"],
    ["lines=1-2", 200, "0123456789", null],
  ];
  for (const [range, status, text, header] of ranges) {
    const response = await get(`${video}/content`, { Range: range });
    expect([response.status, await response.text(), response.headers.get("content-range")]).toEqual([
      status,
      text,
      header,
    ]);
  }
});

test("a folder shows its manifest and the files in it, and nothing else", async () => {
  expect(await (await get(`${folder}/content`)).json()).toMatchObject({ files: [{ path: "inner/a.txt", size: 6 }] });
  expect(await (await get(`${folder}/content?path=inner/a.txt`)).text()).toBe("inside");
  const outside = [
    "../../../../journal.sqlite",
    "inner/../../x",
    "/etc/passwd",
    "inner",
    "",
    ".",
    "inner//a.txt",
    "a\0b",
    "..%2f..%2fx",
  ];
  for (const path of outside)
    expect((await get(`${folder}/content?path=${encodeURIComponent(path)}`)).status).toBe(404);
});

test("a link inside a damaged artefact leads nowhere", async () => {
  const hex = folder.slice("sha256:".length);
  const link = join(host.home, "store", "objects", "sha256", hex.slice(0, 2), hex, "link");
  symlinkSync(join(host.home, "token"), link);
  expect((await get(`${folder}/content?path=link`)).status).toBe(404);
  rmSync(link);
});

test("a wrong digest is said to be wrong, an unknown one to be unknown", async () => {
  expect((await get("sha256:zz")).status).toBe(422);
  expect((await get("..%2f..%2fjournal.sqlite/content")).status).toBe(422);
  expect((await get(`sha256:${"f".repeat(64)}/content`)).status).toBe(404);
});

test("a clip or a picture that was published without a name is shown as what it is", async () => {
  await using store = await openStore(join(host.home, "store"));
  for (const [kind, type] of [
    ["video", "video/mp4"],
    ["image", "image/png"],
    ["latents", "application/octet-stream"],
  ]) {
    writeFileSync(join(host.home, "nameless"), `a ${kind}`);
    const digest = await store.publish(join(host.home, "nameless"), { ...record, kind: kind as string });
    expect((await get(`${digest}/content`)).headers.get("content-type")).toBe(type as string);
  }
});
