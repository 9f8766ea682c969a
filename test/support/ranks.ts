/** Real ranks: a function of a module run in N processes that form one group, and what each of them returned. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { liveTensors, ProcessGroup, RankStore, setThreads } from "../../native/index.ts";

export interface Rank {
  readonly rank: number;
  readonly size: number;
  readonly store: RankStore;
  readonly world: ProcessGroup;
}
/** What `module` exports under the name `cases`. Results and `input` are plain data. */
export type RankCases = Readonly<Record<string, (at: Rank, input: never) => unknown>>;

type FromRank = { port: number } | { result: unknown } | { error: string };
/** Starting, and seconds of work on a loaded machine. */
const LIMIT_MS = 100_000;

/** Runs `cases[name](rank, input)` of the module in `size` processes. Throws the first error of any rank. */
export async function onRanks<T>(size: number, module: string, name: string, input: unknown = null): Promise<T[]> {
  const all = await settledOnRanks<T>(size, module, name, input);
  return all.map((each) => {
    if (each.status === "rejected") throw each.reason;
    return each.value;
  });
}

/** The same, with the fate of every rank. No process ends before all are settled. */
export async function settledOnRanks<T>(
  size: number,
  module: string,
  name: string,
  input: unknown = null,
): Promise<PromiseSettledResult<T>[]> {
  const secret = crypto.randomUUID();
  const children: ReturnType<typeof Bun.spawn>[] = [];
  const results = Array.from({ length: size }, () => Promise.withResolvers<T>());
  const start = (rank: number, port: number): void => {
    const { resolve, reject } = results[rank] as PromiseWithResolvers<T>;
    const child = Bun.spawn([process.execPath, "--no-install", import.meta.path], {
      env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", OMP_WAIT_POLICY: "PASSIVE" },
      stdio: ["ignore", "inherit", "inherit"],
      ipc(message: FromRank) {
        if ("port" in message) for (let other = 1; other < size; other++) start(other, message.port);
        else if ("error" in message) reject(new Error(`rank ${rank}: ${message.error}`));
        else resolve(message.result as T);
      },
      onExit: (_, code, signal) => reject(new Error(`rank ${rank} ended early (${signal ?? code})`)),
    });
    children.push(child);
    child.send({ rank, size, port, secret, module, name, input });
  };
  start(0, 0);
  const late = setTimeout(() => {
    for (const { reject } of results) reject(new Error("the ranks did not end in time"));
  }, LIMIT_MS);
  try {
    return await Promise.allSettled(results.map(({ promise }) => promise));
  } finally {
    clearTimeout(late);
    for (const child of children) child.kill("SIGKILL");
    await Promise.all(children.map((child) => child.exited));
  }
}

/** Local addresses of a process's listening TCP sockets, as /proc spells them: hexadecimal, least byte first. */
export function listening(pid: number | "self" = "self"): string[] {
  const own = new Set(
    readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? [];
      } catch {
        return []; // the descriptor that lists the folder is gone by now
      }
    }),
  );
  return ["tcp", "tcp6"].flatMap((table) =>
    readFileSync(`/proc/${pid}/net/${table}`, "utf8")
      .split("\n")
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter((words) => words[3] === "0A" && own.has(words[9] ?? ""))
      .map((words) => (words[1] as string).split(":")[0] as string),
  );
}
export const LOOPBACK_IN_PROC = "0100007F";

interface Order {
  readonly rank: number;
  readonly size: number;
  readonly port: number;
  readonly secret: string;
  readonly module: string;
  readonly name: string;
  readonly input: never;
}

async function beRank({ rank, size, port, secret, module, name, input }: Order): Promise<unknown> {
  setThreads(1);
  const { cases } = (await import(join(import.meta.dir, "../..", module))) as { cases: RankCases };
  const store = rank === 0 ? RankStore.serve({ secret }) : RankStore.connect(port, { secret });
  if (rank === 0) {
    tell({ port: store.port });
    await Bun.sleep(1); // the message leaves before this thread blocks
  }
  const world = ProcessGroup.open(store, { name: "world", rank, size, timeoutMs: 60_000 });
  const before = liveTensors();
  const result = await cases[name]?.({ rank, size, store, world }, input);
  if (liveTensors() !== before) throw new Error(`${liveTensors() - before} tensors are still alive`);
  return result;
}

const tell = (message: FromRank): void => void process.send?.(message);

if (import.meta.main)
  process.on("message", (order: Order) => {
    beRank(order).then(
      (result) => tell({ result }),
      (error: unknown) => tell({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    );
  });
