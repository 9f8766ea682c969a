import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { JobEvent } from "../../daemon/wire.ts";
import { WaverError } from "../../plugins/errors.ts";
import { eventually, type TestDaemon, testDaemon } from "../support/daemon.ts";

let host: TestDaemon;
beforeAll(async () => {
  host = await testDaemon({ silenceMs: 2_500 });
});
afterAll(() => host[Symbol.asyncDispose]());

const caught = async (work: Promise<unknown>): Promise<WaverError> => {
  try {
    await work;
  } catch (error) {
    if (error instanceof WaverError) return error;
    throw error;
  }
  throw new Error("it did not fail");
};
const finished = async (
  operation: string,
  body: unknown,
): Promise<{ output: Record<string, unknown>; job: Awaited<ReturnType<TestDaemon["client"]["job"]>> }> => {
  const { id } = await host.client.submit(operation, body);
  const job = await host.client.wait(id);
  return { output: job.output as Record<string, unknown>, job };
};
const isQuarantined = async (): Promise<boolean> =>
  (await host.client.plugins()).some((plugin) => plugin.state === "quarantined");
const runnerPid = async (): Promise<number | null> => (await host.client.status()).runners[0]?.pid ?? null;

describe("a job", () => {
  test("runs in a process and its events tell the story in order", async () => {
    const { id } = await host.client.submit("steps", { steps: 3, ms: 300 });
    const events: JobEvent[] = [];
    for await (const event of host.client.events(id)) events.push(event);
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, i) => i + 1));
    expect(events.flatMap((event) => (event.type === "state" ? [event.state] : []))).toEqual([
      "queued",
      "running",
      "done",
    ]);
    expect(events.some((event) => event.type === "progress" && event.progress.done === 2)).toBe(true);
  });

  test("answers a query without a job", async () => {
    const before = (await host.client.jobs()).length;
    expect(await host.client.call("ask", { text: "why" })).toEqual({ answer: "why?" });
    expect((await host.client.jobs()).length).toBe(before);
  });

  test("that fails says why, with code and hint", async () => {
    const { id } = await host.client.submit("fail", {});
    const error = await caught(host.client.wait(id));
    expect([error.code, error.message, error.hint]).toEqual([
      "media_unreadable",
      "the file is no video",
      "give it a video",
    ]);
  });

  test("its log lines can be read on", async () => {
    const { job } = await finished("talk", {});
    const { lines, last } = await host.client.logs(job.id);
    expect(lines.map((line) => line.fields["i"])).toEqual([0, 1, 2, 3, 4]);
    expect((await host.client.logs(job.id, last)).lines).toEqual([]);
  });
});

describe("idempotency", () => {
  test("the same key and body give the same job, another body is a conflict", async () => {
    const how = { idempotencyKey: "once" };
    const ids = await Promise.all([1, 2, 3].map(async () => (await host.client.submit("echo", { text: "a" }, how)).id));
    expect(new Set(ids).size).toBe(1);
    expect((await caught(host.client.submit("echo", { text: "b" }, how))).code).toBe("conflict");
  });
});

describe("an event stream", () => {
  test("goes on after the last event seen, by header and by query", async () => {
    const { job } = await finished("steps", { steps: 2, ms: 5 });
    const all: JobEvent[] = [];
    for await (const event of host.client.events(job.id)) all.push(event);
    const rest: JobEvent[] = [];
    for await (const event of host.client.events(job.id, { after: 2 })) rest.push(event);
    expect(rest).toEqual(all.slice(2));
    const response = await host.client.request("GET", `/v1/jobs/${job.id}/events`, {
      headers: { "Last-Event-ID": "1" },
    });
    const text = await response.text();
    expect(text).toContain("id: 2\n");
    expect(text).not.toContain("id: 1\n");
    expect(text).toContain("event: state");
  });
});

describe("cancel", () => {
  test("ends a queued job at once and a running one at its next step", async () => {
    const running = await host.client.submit("steps", { steps: 1000, ms: 20 });
    const waiting = await host.client.submit("steps", { steps: 1 });
    expect((await host.client.cancel(waiting.id)).state).toBe("cancelled");
    await eventually(async () => (await host.client.job(running.id)).state === "running");
    await host.client.cancel(running.id);
    expect((await caught(host.client.wait(running.id))).code).toBe("cancelled");
    expect((await host.client.job(running.id)).attempt).toBe(1);
  });

  test("of a parent ends its children", async () => {
    const parent = await host.client.submit("parent", {
      children: [{ operation: "steps", input: { steps: 1000, ms: 20 } }],
    });
    const child = await eventually(async () => (await host.client.jobs({ parent: parent.id }))[0]);
    await eventually(async () => (await host.client.job(child.id)).state === "running");
    await host.client.cancel(parent.id);
    await eventually(async () => (await host.client.job(child.id)).state === "cancelled");
    expect((await host.client.job(parent.id)).state).toBe("cancelled");
  });

  test("kills a process that takes no notice", async () => {
    const { id } = await host.client.submit("stubborn", {});
    await eventually(async () => (await host.client.job(id)).state === "running");
    await Bun.sleep(300);
    await host.client.cancel(id);
    expect((await caught(host.client.wait(id))).code).toBe("cancelled");
  }, 30_000);
});

describe("a process that is lost", () => {
  test("by kill -9 costs an attempt, not the work done", async () => {
    const { id } = await host.client.submit("steps", { steps: 12, ms: 60 });
    await eventually(async () => ((await host.client.job(id)).progress?.done ?? 0) >= 3);
    process.kill((await runnerPid()) ?? 0, "SIGKILL");
    const job = await host.client.wait(id);
    const output = job.output as { resumedFrom: number; attempt: number };
    expect(output.attempt).toBe(2);
    expect(output.resumedFrom).toBeGreaterThanOrEqual(3);
  });

  test("by silence (SIGSTOP) is killed and replaced", async () => {
    const { id } = await host.client.submit("steps", { steps: 12, ms: 60 });
    await eventually(async () => ((await host.client.job(id)).progress?.done ?? 0) >= 3);
    const pid = (await runnerPid()) ?? 0;
    process.kill(pid, "SIGSTOP");
    const job = await host.client.wait(id);
    expect((job.output as { attempt: number }).attempt).toBe(2);
    expect(await runnerPid()).not.toBe(pid);
  }, 30_000);

  test("three times without progress is a crash loop", async () => {
    const { id } = await host.client.submit("die", {});
    const error = await caught(host.client.wait(id));
    expect(error.code).toBe("crash_loop");
    expect((await host.client.job(id)).attempt).toBe(3);
  }, 60_000);

  test("is heard no more under a wrong or later lease", async () => {
    const { output, job } = await finished("liar", {});
    expect(output).toEqual({ lie: false });
    expect(job.attempt).toBe(1);
    expect(readFileSync(join(host.home, "log", "daemon.log"), "utf8")).toContain("stale_lease_ignored");
  });
});

describe("reuse", () => {
  test("equal content and options return the earlier result while what it wrote exists", async () => {
    const body = { from: join(host.home, "in.txt"), to: join(host.home, "out.txt") };
    writeFileSync(body.from, "one");
    const first = await finished("copy", body);
    const second = await finished("copy", body);
    expect([first.job.reused, second.job.reused]).toEqual([false, true]);
    expect(second.output).toEqual(first.output);
    rmSync(body.to);
    const third = await finished("copy", body);
    expect(third.job.reused).toBe(false);
    writeFileSync(body.from, "two");
    expect((await finished("copy", body)).job.reused).toBe(false);
    writeFileSync(body.from, "one");
    expect((await finished("copy", body)).job.reused).toBe(true);
  });

  test("two equal jobs at once do the work once", async () => {
    const body = { from: join(host.home, "both.txt"), to: join(host.home, "both.out") };
    writeFileSync(body.from, "both");
    const jobs = await Promise.all([finished("copy", body), finished("copy", body), finished("copy", body)]);
    expect(jobs.filter(({ job }) => !job.reused).length).toBe(1);
    expect(new Set(jobs.map(({ output }) => output["at"])).size).toBe(1);
  });
});

describe("children", () => {
  test("more worker parents than the pool holds, with worker children, do not block each other", async () => {
    const child = (nonce: string) => ({ operation: "workerSteps", input: { steps: 1, ms: 5, nonce } });
    const jobs = await Promise.all(
      Array.from({ length: 6 }, (_, i) =>
        finished("parent", {
          children: [child(`${i}a`), { operation: "parent", input: { children: [child(`${i}b`)] } }],
        }),
      ),
    );
    for (const { output } of jobs) expect((output["results"] as unknown[]).length).toBe(2);
  });

  test("a parent that died gets the same children again", async () => {
    const { output, job } = await finished("parent", {
      children: [{ operation: "steps", input: { steps: 2, nonce: "again" } }],
      dieAfter: true,
    });
    expect(job.attempt).toBe(2);
    expect((await host.client.jobs({ parent: job.id })).length).toBe(1);
    expect(output["results"]).toMatchObject([{ output: { resumedFrom: 0 } }]);
  });

  test("a child's failure reaches its parent with its code", async () => {
    const { id } = await host.client.submit("parent", { children: [{ operation: "fail", input: {} }] });
    expect((await caught(host.client.wait(id))).code).toBe("media_unreadable");
  });

  test("a wrong child body is told to the parent", async () => {
    const { id } = await host.client.submit("parent", { children: [{ operation: "echo", input: { text: 1 } }] });
    expect((await caught(host.client.wait(id))).code).toBe("invalid_input");
  });
});

describe("providers elsewhere", () => {
  test("are called in a worker", async () => {
    const { output } = await finished("useRemote", { hook: "score", id: "near", value: 7 });
    expect(output["output"]).toMatchObject({ value: 7, role: "worker" });
  });

  test("that take their process down are reported, and put in quarantine after three times", async () => {
    for (let i = 0; i < 3; i += 1) {
      const { id } = await host.client.submit("useRemote", { hook: "score", id: "dead", value: i });
      expect((await caught(host.client.wait(id))).code).toBe("plugin_failed");
    }
    await eventually(isQuarantined);
    const { id } = await host.client.submit("useRemote", { hook: "score", id: "dead", value: 4 });
    expect((await caught(host.client.wait(id))).code).toBe("no_provider");
  }, 60_000);

  test("come out of quarantine when plugins are added, removed or reloaded, and start without a past", async () => {
    const use = async (value: number): Promise<string> => {
      const { id } = await host.client.submit("useRemote", { hook: "score", id: "dead", value });
      return (await caught(host.client.wait(id))).code;
    };
    // As `plugins-add` does it: in the daemon, on its own registry.
    expect((await finished("renew", {})).output).toEqual([] as never);
    expect(await isQuarantined()).toBe(false);
    for (const value of [10, 11]) expect(await use(value)).toBe("plugin_failed");
    expect(await isQuarantined()).toBe(false);
    expect(await use(12)).toBe("plugin_failed");
    await eventually(isQuarantined);
    // As `POST /v1/plugins/reload` does it.
    expect((await host.client.reloadPlugins()).some(({ state }) => state === "quarantined")).toBe(false);
    expect(await use(13)).toBe("plugin_failed");
  }, 60_000);
});

test("no work folder is left behind", async () => {
  const { job } = await finished("parent", { children: [{ operation: "steps", input: { steps: 1, nonce: "tidy" } }] });
  await eventually(async () => !existsSync(join(host.home, "work", job.id)));
  expect(readdirSync(join(host.home, "work")).filter((name) => name.startsWith("query_"))).toEqual([]);
});

test("the queue has an end", async () => {
  await using small = await testDaemon({ queueLimit: 5 });
  const outcomes = await Promise.all(
    Array.from({ length: 20 }, async () => {
      try {
        return (await small.client.submit("steps", { steps: 100, ms: 20 })).state;
      } catch (error) {
        return (error as WaverError).code;
      }
    }),
  );
  expect(outcomes.filter((each) => each === "queue_full").length).toBe(20 - 6);
  const full = await fetch("http://localhost/v1/steps", {
    method: "POST",
    unix: join(small.home, "run", "daemon.sock"),
    headers: { "Content-Type": "application/json" },
    body: "{}",
  });
  expect([full.status, full.headers.get("retry-after")]).toEqual([429, "5"]);
});

test("processes that died leave no descriptors and no pid files", async () => {
  const count = (): number => readdirSync("/proc/self/fd").length;
  const cycle = async (): Promise<void> => {
    const { id } = await host.client.submit("dieOnce", {});
    await host.client.wait(id);
  };
  await cycle();
  const before = count();
  for (let i = 0; i < 3; i += 1) await cycle();
  expect(count()).toBeLessThanOrEqual(before + 2);
  const alive = new Set(readdirSync(join(host.home, "run", "processes")).map((name) => Number.parseInt(name, 10)));
  for (const pid of alive) expect(existsSync(`/proc/${pid}`)).toBe(true);
}, 60_000);

test("of jobs that wait, the one of higher priority runs first", async () => {
  const running = await host.client.submit("steps", { steps: 10, ms: 20, nonce: "holds the lane" });
  const [low, high] = [
    await host.client.submit("steps", { steps: 1, ms: 1, nonce: "low" }, { priority: -1 }),
    await host.client.submit("steps", { steps: 1, ms: 1, nonce: "high" }, { priority: 5 }),
  ];
  for (const { id } of [running, low, high]) await host.client.wait(id);
  const startedAt = async (id: string): Promise<string> => (await host.client.job(id)).startedAt as string;
  expect((await startedAt(high.id)) <= (await startedAt(low.id))).toBe(true);
  const order = (
    await Promise.all([low, high].map(async ({ id }) => [id, (await host.client.job(id)).finishedAt] as const))
  ).sort((a, b) => ((a[1] ?? "") < (b[1] ?? "") ? -1 : 1));
  expect(order.map(([id]) => id)).toEqual([high.id, low.id]);
});
