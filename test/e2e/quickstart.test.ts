/**
 * The main job over HTTP alone, with every process that works for it killed on the way: it goes on from the last unit,
 * does nothing twice, and an unchanged second run reuses everything. Minutes long: `npm test -- --long`.
 */
import { afterAll, expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Client, createClient } from "../../daemon/client.ts";
import { eventually, temporaryHome } from "../support/daemon.ts";

const home = temporaryHome();
const output = join(home, "quickstart");
const body = { profile: "test", output };
let daemon: Bun.Subprocess | undefined;
afterAll(() => {
  daemon?.kill("SIGKILL");
  rmSync(home, { recursive: true, force: true });
});

async function start(): Promise<Client> {
  daemon = Bun.spawn([process.execPath, join(import.meta.dir, "../../daemon/main.ts"), "--home", home], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const client = createClient({ home });
  await eventually(() => client.status().catch(() => null), 60_000);
  return client;
}

/** kill -9 of the daemon, and of its runner a moment before or not at all. */
async function kill(client: Client, runnerToo: boolean): Promise<void> {
  const { runners, pid } = await client.status();
  if (runnerToo) for (const runner of runners) if (runner.pid !== null) process.kill(runner.pid, "SIGKILL");
  process.kill(pid, "SIGKILL");
  await daemon?.exited;
}

const children = async (client: Client, parent: string) =>
  (await client.jobs({ parent, limit: 200 })).filter((job) => job.state === "done");

const isLong = (process.env["WAVER_TEST_SIZE"] ?? "default") !== "default";

test.skipIf(!isLong)(
  "killed at four stages it ends as if nothing had happened, and is reused whole",
  async () => {
    let client = await start();
    const { id } = await client.submit("quickstart", body, { idempotencyKey: "one" });
    let before = 0;
    for (const [i, operation] of ["curate", "train", "generate", "refine"].entries()) {
      await eventually(
        async () => (await client.jobs({ parent: id, operation, limit: 50 })).some((job) => job.state !== "queued"),
        600_000,
      );
      await kill(client, i % 2 === 0);
      client = await start();
      const done = (await children(client, id)).length;
      expect(done).toBeGreaterThanOrEqual(before);
      before = done;
    }
    const job = await client.wait(id);
    expect(job.state).toBe("done");
    const { report, steps } = job.output as { report: string; steps: number };
    expect(readFileSync(report, "utf8")).toContain("</html>");
    // Every step is one child, however often it was begun.
    const finished = await children(client, id);
    expect(finished.length).toBe(steps);

    const again = await client.submit("quickstart", body, { idempotencyKey: "two" });
    const began = performance.now();
    const second = (await client.wait(again.id)).output as { steps: number; reusedSteps: number };
    expect(second.reusedSteps).toBe(second.steps);
    expect(performance.now() - began).toBeLessThan(15_000);
    expect(existsSync(report)).toBe(true);
  },
  1_800_000,
);
