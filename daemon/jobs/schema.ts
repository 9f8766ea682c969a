/**
 * Schema of the embedded journal, as forward-only steps. A step is never edited after a release: a new one is added.
 * An older program refuses a newer file rather than guess.
 */
import type { Database } from "bun:sqlite";
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { WaverError } from "../../plugins/errors.ts";

const STEPS: readonly string[] = [
  `CREATE TABLE jobs (
     n INTEGER PRIMARY KEY,
     id TEXT NOT NULL UNIQUE,
     age INTEGER NOT NULL,
     operation TEXT NOT NULL,
     priority INTEGER NOT NULL,
     created_at TEXT NOT NULL,
     parent TEXT,
     idempotency_key TEXT UNIQUE,
     body_hash TEXT NOT NULL,
     body TEXT NOT NULL,
     child_key TEXT,
     state TEXT NOT NULL,
     attempt INTEGER NOT NULL,
     deaths INTEGER NOT NULL,
     high TEXT NOT NULL,
     cancel_requested INTEGER NOT NULL,
     started_at TEXT,
     finished_at TEXT,
     reuse_key TEXT,
     work_key TEXT NOT NULL,
     reused INTEGER NOT NULL,
     output TEXT,
     error TEXT,
     progress TEXT,
     peak_bytes INTEGER NOT NULL,
     seconds REAL NOT NULL
   ) STRICT;
   CREATE INDEX jobs_state ON jobs (state, age);
   CREATE INDEX jobs_reuse ON jobs (reuse_key) WHERE reuse_key IS NOT NULL;
   CREATE INDEX jobs_child ON jobs (child_key) WHERE child_key IS NOT NULL;
   CREATE INDEX jobs_parent ON jobs (parent) WHERE parent IS NOT NULL;
   CREATE TABLE events (
     job TEXT NOT NULL,
     seq INTEGER NOT NULL,
     body TEXT NOT NULL,
     PRIMARY KEY (job, seq)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE file_digests (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL) STRICT, WITHOUT ROWID;`,
];

export const SCHEMA_VERSION = STEPS.length;

/**
 * Brings a database to `SCHEMA_VERSION` in one transaction. A database that holds something is copied to
 * `<file>.v<N>.backup` first (`VACUUM INTO` writes a consistent copy even while the WAL is not empty).
 */
export function migrate(db: Database, file: string, steps: readonly string[] = STEPS): void {
  db.run("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID");
  const row = db.query<{ value: string }, []>("SELECT value FROM meta WHERE key = 'schema'").get();
  const version = row === null ? 0 : Number(row.value);
  if (version > steps.length)
    throw new WaverError("version_mismatch", `the journal has schema ${version}, this program knows ${steps.length}`, {
      hint: "start the newer version of waver that wrote it, or give this one another --home",
    });
  if (version === steps.length) return;
  if (version > 0) {
    const backup = `${file}.v${version}.backup`;
    // A backup of an interrupted migration is equal to the one that would be made now; half of one is made again.
    if (!existsSync(backup)) {
      rmSync(`${backup}.part`, { force: true });
      db.run("VACUUM INTO ?", [`${backup}.part`]);
      syncFile(`${backup}.part`);
      renameSync(`${backup}.part`, backup);
      syncFile(dirname(backup));
    }
  }
  db.transaction(() => {
    for (const step of steps.slice(version)) db.run(step);
    db.run(
      "INSERT INTO meta (key, value) VALUES ('schema', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
      [String(steps.length)],
    );
  }).immediate();
}

function syncFile(path: string): void {
  const fd = openSync(path, "r");
  fsyncSync(fd);
  closeSync(fd);
}
