/** Where the daemon listens. Alone in a file because the client needs it too, and must start without loading zod or cosmiconfig. */

import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Longest path the kernel takes for a unix socket, less a margin (sun_path has 108 bytes). */
const LONGEST = 100;

/** The socket of a home folder: inside it, or in the temporary folder when that path would be too long for the kernel. */
export function socketPath(home: string): string {
  const inside = join(home, "run", "daemon.sock");
  if (Buffer.byteLength(inside) <= LONGEST) return inside;
  const short = createHash("sha256").update(home).digest("hex").slice(0, 16);
  return join(tmpdir(), `waver-${process.getuid?.() ?? 0}-${short}`, "daemon.sock");
}
