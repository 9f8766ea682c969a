/**
 * The embedded job store: bun:sqlite in WAL mode with synchronous FULL, so that a commit is on the disk when it
 * returns. One writer: the daemon that holds the home's lock.
 */
import { Database, type SQLQueryBindings } from "bun:sqlite";
import { chmodSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { ErrorBody } from "../../plugins/errors.ts";
import type { JobEvent, JobId, JobState, Progress } from "../wire.ts";
import { migrate } from "./schema.ts";
import type { JobChange, JobFilter, JobRow, JobStore, Retention, Write } from "./store.ts";

const HAS_ENDED = "state IN ('done', 'failed', 'cancelled')";
const IS_PROGRESS = "json_extract(body, '$.type') = 'progress'";
/** Events of a job between two times that its older progress is thinned. */
const THIN_EVERY = 1_000;
/** Jobs of one pruning transaction: a few milliseconds in which nobody else can write. */
const PRUNED_AT_ONCE = 200;

/** A row as SQLite keeps it. */
interface Stored {
  id: string;
  age: number;
  operation: string;
  priority: number;
  created_at: string;
  parent: string | null;
  idempotency_key: string | null;
  body_hash: string;
  body: string;
  child_key: string | null;
  state: string;
  attempt: number;
  deaths: number;
  high: string;
  cancel_requested: number;
  started_at: string | null;
  finished_at: string | null;
  reuse_key: string | null;
  work_key: string;
  reused: number;
  output: string | null;
  error: string | null;
  progress: string | null;
  peak_bytes: number;
  seconds: number;
}

const json = (value: unknown): string | null => (value === null || value === undefined ? null : JSON.stringify(value));
const unjson = <T>(text: string | null): T | null => (text === null ? null : (JSON.parse(text) as T));

/** How each changeable field is stored: column and conversion. */
const COLUMNS: { readonly [K in keyof Required<JobChange>]: readonly [string, (value: never) => SQLQueryBindings] } = {
  state: ["state", (value: string) => value],
  attempt: ["attempt", (value: number) => value],
  deaths: ["deaths", (value: number) => value],
  high: ["high", (value: unknown) => JSON.stringify(value)],
  cancelRequested: ["cancel_requested", (value: boolean) => (value ? 1 : 0)],
  startedAt: ["started_at", (value: string | null) => value],
  finishedAt: ["finished_at", (value: string | null) => value],
  reuseKey: ["reuse_key", (value: string | null) => value],
  workKey: ["work_key", (value: string) => value],
  reused: ["reused", (value: boolean) => (value ? 1 : 0)],
  output: ["output", json],
  error: ["error", json],
  progress: ["progress", json],
  peakBytes: ["peak_bytes", (value: number) => Math.round(value)],
  seconds: ["seconds", (value: number) => value],
};

const fromStored = (row: Stored): JobRow => ({
  id: row.id as JobId,
  age: row.age,
  operation: row.operation,
  priority: row.priority,
  createdAt: row.created_at,
  parent: row.parent as JobId | null,
  idempotencyKey: row.idempotency_key,
  bodyHash: row.body_hash,
  body: JSON.parse(row.body) as Record<string, unknown>,
  childKey: row.child_key,
  state: row.state as JobState,
  attempt: row.attempt,
  deaths: row.deaths,
  high: JSON.parse(row.high) as Record<string, number>,
  cancelRequested: row.cancel_requested === 1,
  startedAt: row.started_at,
  finishedAt: row.finished_at,
  reuseKey: row.reuse_key,
  workKey: row.work_key,
  reused: row.reused === 1,
  output: unjson(row.output),
  error: unjson<ErrorBody>(row.error),
  progress: unjson<Progress>(row.progress),
  peakBytes: row.peak_bytes,
  seconds: row.seconds,
});

export class Journal implements JobStore {
  readonly #db: Database;

  constructor(file: string) {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    this.#db = new Database(file, { create: true, strict: true });
    chmodSync(file, 0o600);
    this.#db.run("PRAGMA journal_mode = WAL");
    this.#db.run("PRAGMA synchronous = FULL");
    this.#db.run("PRAGMA busy_timeout = 5000");
    migrate(this.#db, file);
  }

  async commit(writes: readonly Write[]): Promise<void> {
    if (writes.length === 0) return;
    this.#db
      .transaction(() => {
        for (const write of writes) this.#write(write);
      })
      .immediate();
  }

  #write(write: Write): void {
    switch (write.kind) {
      case "insert":
        this.#insert(write.job);
        return;
      case "update":
        this.#update(write.id, write.set);
        return;
      case "event":
        this.#db
          .query("INSERT INTO events (job, seq, body) VALUES (?, ?, ?)")
          .run(write.event.job, write.event.seq, JSON.stringify(write.event));
        if (write.event.seq % THIN_EVERY === 0) this.#thin(write.event.job, write.event.seq);
        return;
      case "releaseChildren":
        this.#db.query("UPDATE jobs SET child_key = NULL WHERE parent = ?").run(write.parent);
        return;
    }
  }

  /** A job of days has a report every fifth of a second: of older ones each hundredth shows the course as well. */
  #thin(job: JobId, seq: number): void {
    this.#db
      .query(`DELETE FROM events WHERE job = ? AND seq < ? AND seq % 100 <> 0 AND ${IS_PROGRESS}`)
      .run(job, seq - THIN_EVERY);
  }

  async prune({ jobs, progressBefore, digests }: Retention): Promise<{ jobs: number; events: number }> {
    return this.#db
      .transaction(() => {
        const old = this.#db
          .query<{ id: string }, SQLQueryBindings[]>(
            `SELECT id FROM jobs WHERE ${HAS_ENDED} AND n <= (SELECT n FROM jobs ORDER BY n DESC LIMIT 1 OFFSET ?)
             AND (parent IS NULL OR parent NOT IN (SELECT id FROM jobs WHERE NOT ${HAS_ENDED})) ORDER BY n LIMIT ?`,
          )
          .all(jobs, PRUNED_AT_ONCE);
        let events = 0;
        for (const { id } of old) {
          events += this.#db.query("DELETE FROM events WHERE job = ?").run(id).changes;
          this.#db.query("DELETE FROM jobs WHERE id = ?").run(id);
        }
        const quiet = this.#db
          .query<{ id: string; finished_at: string }, SQLQueryBindings[]>(
            `SELECT id, finished_at FROM jobs WHERE ${HAS_ENDED} AND finished_at < ? AND finished_at > ? ORDER BY finished_at LIMIT ?`,
          )
          .all(progressBefore, this.#meta("quiet_until") ?? "", PRUNED_AT_ONCE);
        for (const { id } of quiet)
          events += this.#db.query(`DELETE FROM events WHERE job = ? AND ${IS_PROGRESS}`).run(id).changes;
        const last = quiet.at(-1);
        if (last !== undefined) this.#setMeta("quiet_until", last.finished_at);
        this.#db
          .query(
            "DELETE FROM file_digests WHERE path IN (SELECT path FROM file_digests LIMIT max(0, (SELECT count(*) FROM file_digests) - ?))",
          )
          .run(digests);
        return { jobs: old.length, events };
      })
      .immediate();
  }

  #meta(key: string): string | null {
    return this.#db.query<{ value: string }, [string]>("SELECT value FROM meta WHERE key = ?").get(key)?.value ?? null;
  }

  #setMeta(key: string, value: string): void {
    this.#db
      .query("INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
      .run(key, value);
  }

  #insert(job: JobRow): void {
    const columns: Record<string, SQLQueryBindings> = {
      id: job.id,
      age: job.age,
      operation: job.operation,
      priority: job.priority,
      created_at: job.createdAt,
      parent: job.parent,
      idempotency_key: job.idempotencyKey,
      body_hash: job.bodyHash,
      body: JSON.stringify(job.body),
      child_key: job.childKey,
      ...changed(job),
    };
    const names = Object.keys(columns);
    this.#db
      .query(`INSERT INTO jobs (${names.join(", ")}) VALUES (${names.map(() => "?").join(", ")})`)
      .run(...Object.values(columns));
  }

  #update(id: JobId, set: JobChange): void {
    const columns = changed(set);
    const names = Object.keys(columns);
    if (names.length === 0) return;
    this.#db
      .query(`UPDATE jobs SET ${names.map((name) => `${name} = ?`).join(", ")} WHERE id = ?`)
      .run(...Object.values(columns), id);
  }

  async job(id: JobId): Promise<JobRow | null> {
    return this.#one("SELECT * FROM jobs WHERE id = ?", id);
  }

  async byIdempotencyKey(key: string): Promise<JobRow | null> {
    return this.#one("SELECT * FROM jobs WHERE idempotency_key = ?", key);
  }

  async byReuseKey(key: string): Promise<JobRow | null> {
    return this.#one(
      "SELECT * FROM jobs WHERE reuse_key = ? AND state = 'done' ORDER BY finished_at DESC LIMIT 1",
      key,
    );
  }

  async byChildKey(key: string): Promise<JobRow | null> {
    return this.#one(
      "SELECT * FROM jobs WHERE child_key = ? AND state IN ('queued', 'running', 'done') ORDER BY n DESC LIMIT 1",
      key,
    );
  }

  async live(): Promise<{ row: JobRow; lastSeq: number }[]> {
    return this.#db
      .query<Stored & { last_seq: number | null }, []>(
        "SELECT *, (SELECT max(seq) FROM events WHERE job = jobs.id) AS last_seq FROM jobs WHERE state IN ('queued', 'running') ORDER BY age, n",
      )
      .all()
      .map((row) => ({ row: fromStored(row), lastSeq: row.last_seq ?? 0 }));
  }

  async list(filter: JobFilter): Promise<JobRow[]> {
    const where: string[] = [];
    const values: SQLQueryBindings[] = [];
    for (const [column, value] of [
      ["state", filter.state],
      ["operation", filter.operation],
      ["parent", filter.parent],
    ] as const) {
      if (value === undefined) continue;
      where.push(`${column} = ?`);
      values.push(value);
    }
    return this.#db
      .query<Stored, SQLQueryBindings[]>(
        `SELECT * FROM jobs ${where.length === 0 ? "" : `WHERE ${where.join(" AND ")}`} ORDER BY n DESC LIMIT ?`,
      )
      .all(...values, filter.limit)
      .map(fromStored);
  }

  async counts(): Promise<Record<JobState, number>> {
    const counts: Record<JobState, number> = { queued: 0, running: 0, done: 0, failed: 0, cancelled: 0 };
    for (const row of this.#db
      .query<{ state: JobState; n: number }, []>("SELECT state, count(*) AS n FROM jobs GROUP BY state")
      .all())
      counts[row.state] = row.n;
    return counts;
  }

  async lastAge(): Promise<number> {
    return this.#db.query<{ age: number | null }, []>("SELECT max(age) AS age FROM jobs").get()?.age ?? 0;
  }

  async events(id: JobId, after: number, limit: number): Promise<JobEvent[]> {
    return this.#db
      .query<{ body: string }, SQLQueryBindings[]>(
        "SELECT body FROM events WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?",
      )
      .all(id, after, limit)
      .map((row) => JSON.parse(row.body) as JobEvent);
  }

  async fileDigest(path: string, stamp: string): Promise<string | null> {
    return (
      this.#db
        .query<{ digest: string }, SQLQueryBindings[]>("SELECT digest FROM file_digests WHERE path = ? AND stamp = ?")
        .get(path, stamp)?.digest ?? null
    );
  }

  async rememberFileDigest(path: string, stamp: string, digest: string): Promise<void> {
    this.#db
      .query(
        "INSERT INTO file_digests (path, stamp, digest) VALUES (?, ?, ?) ON CONFLICT (path) DO UPDATE SET stamp = excluded.stamp, digest = excluded.digest",
      )
      .run(path, stamp, digest);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#db.close(false);
  }

  #one(sql: string, key: string): JobRow | null {
    const row = this.#db.query<Stored, [string]>(sql).get(key);
    return row === null ? null : fromStored(row);
  }
}

/** The changeable fields that are present, by column. */
function changed(fields: JobChange): Record<string, SQLQueryBindings> {
  const columns: Record<string, SQLQueryBindings> = {};
  for (const name of Object.keys(COLUMNS) as (keyof JobChange)[]) {
    const value = fields[name];
    if (value === undefined && name !== "output") continue;
    if (!(name in fields)) continue;
    const [column, convert] = COLUMNS[name];
    columns[column] = convert(value as never);
  }
  return columns;
}
