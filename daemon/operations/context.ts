/** What operations that run in the daemon itself are given beside the usual context: the daemon. */
import { type Context, WaverError } from "../../plugins/index.ts";
import type { Config } from "../config.ts";
import type { Registry } from "../plugins/registry.ts";

export interface Daemon {
  readonly config: Config;
  registry(): Registry;
  /** Looks for plugins again and puts the new registry in place of the old; running jobs are not touched. */
  reload(): Promise<Registry>;
}

export interface DaemonContext extends Context {
  readonly daemon: Daemon;
}

/** The daemon behind a context. Only operations with `runs: "daemon"` have one. */
export function daemonOf(ctx: Context): Daemon {
  const daemon = (ctx as Partial<DaemonContext>).daemon;
  if (daemon === undefined) throw new WaverError("internal", "this operation runs in the daemon only");
  return daemon;
}
