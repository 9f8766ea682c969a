/** Whose turn it is: which jobs may start or go on now, and in which order. */
import { isActive, type Lane, type Live, type SchedulerState } from "./state.ts";

/** Best first: jobs whose child has answered, then by priority and age; as many as their lanes hold, one a work folder. */
export function whoIsNext(state: SchedulerState, now: number): Live[] {
  if (state.draining) return [];
  const active = new Map<Lane, number>();
  const folders = new Set<string>();
  const ready: Live[] = [];
  for (const live of state.jobs.values()) {
    if (live.row.state === "running") {
      folders.add(live.row.workKey);
      if (isActive(live)) active.set(live.lane, (active.get(live.lane) ?? 0) + 1);
      else if (live.answer !== null) ready.push(live);
    } else if (live.prepared && !live.held && live.notBefore <= now) ready.push(live);
  }
  ready.sort(
    (a, b) =>
      Number(b.answer !== null) - Number(a.answer !== null) || b.row.priority - a.row.priority || a.row.age - b.row.age,
  );
  return ready.filter((live) => {
    const used = active.get(live.lane) ?? 0;
    if (used >= state.sizeOf(live.lane)) return false;
    if (live.answer === null) {
      if (folders.has(live.row.workKey)) return false;
      folders.add(live.row.workKey);
    }
    active.set(live.lane, used + 1);
    return true;
  });
}
