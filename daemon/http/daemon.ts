/** What the routes ask the daemon for: the whole of what HTTP can reach. */

import type { Jobs } from "../jobs/jobs.ts";
import type { DaemonLog } from "../log.ts";
import type { Registry } from "../plugins/registry.ts";
import type { Status } from "../wire.ts";
import type { Artifacts } from "./artifacts.ts";
import type { Doctor } from "./doctor.ts";
import type { Sessions } from "./sessions.ts";
import type { Uploads } from "./uploads.ts";
import type { Videos } from "./videos.ts";

export interface Daemon {
  readonly jobs: Jobs;
  readonly artifacts: Artifacts;
  readonly uploads: Uploads;
  readonly videos: Videos;
  readonly sessions: Sessions;
  readonly log: DaemonLog;
  registry(): Registry;
  reload(): Promise<Registry>;
  status(): Promise<Status>;
  doctor(signal: AbortSignal): Promise<Doctor>;
  /** Begins an orderly stop; answers at once. */
  stop(): void;
}
