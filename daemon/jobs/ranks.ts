/** Processes that are ranks of one job: they are started, meet, and end together. */
import type { Meeting } from "../runner/ranks.ts";
import type { Exit, RunnerProcess } from "./process.ts";

export class RankGroup {
  readonly #members: RunnerProcess[] = [];
  /** Those that have said they listen. */
  readonly #listening = new Set<RunnerProcess>();
  #meeting: Meeting | null = null;
  #isBroken = false;

  /** One of its processes is gone: it takes no more work. */
  get isBroken(): boolean {
    return this.#isBroken;
  }
  /** The process that jobs are given to. */
  get leader(): RunnerProcess {
    return this.#members[0] as RunnerProcess;
  }

  add(member: RunnerProcess): void {
    this.#members.push(member);
  }

  /** The leader says where its store is, a follower that it listens; each follower is then told the place. */
  heard(from: RunnerProcess, meeting: Meeting | null): void {
    if (from === this.leader) this.#meeting = meeting;
    else this.#listening.add(from);
    if (this.#meeting === null) return;
    for (const each of this.#listening) each.send({ type: "join", ...this.#meeting });
    this.#listening.clear();
  }

  /** Ends the rest, as the first went; whether this was the first. */
  gone(from: RunnerProcess, exit: Pick<Exit, "reason" | "expected">): boolean {
    const isFirst = !this.#isBroken;
    this.#isBroken = true;
    if (isFirst)
      for (const each of this.#members) {
        if (each === from || each.isGone) continue;
        if (exit.expected) each.stop();
        else each.kill(`rank ${from.args.ranks?.rank} of its group ended (${exit.reason})`);
      }
    return isFirst;
  }
}
