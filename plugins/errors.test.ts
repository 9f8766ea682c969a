import { expect, test } from "bun:test";
import { toWaverError } from "./errors.ts";

const system = (code: string, more: object): Error =>
  Object.assign(new Error(`${code}: some words`), { code, ...more });

test("what the system refuses is told in one sentence, without the path", () => {
  const cases: [Error, string, string][] = [
    [
      system("EACCES", { syscall: "scandir", path: "/srv/private/clips/" }),
      "forbidden",
      "this user may not look into clips",
    ],
    [system("EACCES", { syscall: "open", path: "/srv/a.mp4" }), "forbidden", "this user may not use a.mp4"],
    [
      system("EROFS", { syscall: "mkdir", path: "/etc/.set.27379-426f8877-68b9.tmp" }),
      "forbidden",
      "this user may not make the folder set",
    ],
    [
      system("EPERM", { syscall: "rename", path: "/a/b.tmp", dest: "/a/b" }),
      "forbidden",
      "this user may not replace b",
    ],
    [system("EACCES", {}), "forbidden", "this user may not use what it needs"],
    [system("ENOSPC", { syscall: "write" }), "disk_full", "the disk is full"],
    [system("EDQUOT", {}), "disk_full", "the disk is full"],
    [system("SQLITE_FULL", {}), "disk_full", "the disk is full"],
  ];
  for (const [error, code, message] of cases) {
    const known = toWaverError(error);
    expect([known.code as string, known.message]).toEqual([code, message]);
    expect(known.hint).toBeString();
    expect(known.cause).toBe(error);
  }
});
