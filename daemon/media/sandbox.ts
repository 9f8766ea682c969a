/**
 * What the kernel lets us take from a child that parses hostile files (reliability.md 4.21): its network, by a network
 * namespace of its own that holds nothing, and every way to more rights. Where the kernel or the machine refuses, the
 * child runs with its limits alone, and `waver doctor` says so.
 */

/** Ways to a network namespace: as root, or by a user namespace where those are allowed. */
const NO_NETWORK = [
  ["unshare", "--net", "--"],
  ["unshare", "--user", "--map-current-user", "--net", "--"],
] as const;
const NO_NEW_RIGHTS = ["setpriv", "--no-new-privs", "--"] as const;

export interface Sandbox {
  /** Program and arguments that come before the child's own. */
  readonly prefix: readonly string[];
  readonly network: boolean;
  readonly rights: boolean;
}

let found: Sandbox | null = null;

/** Tried out once a process: a few milliseconds. */
export function sandbox(): Sandbox {
  if (found !== null) return found;
  const network = NO_NETWORK.find((each) => works([...each, "true"]));
  const rights = works([...(network ?? []), ...NO_NEW_RIGHTS, "true"]);
  found = {
    prefix: [...(network ?? []), ...(rights ? NO_NEW_RIGHTS : [])],
    network: network !== undefined,
    rights,
  };
  return found;
}

function works(cmd: string[]): boolean {
  try {
    return Bun.spawnSync(cmd, { stdio: ["ignore", "ignore", "ignore"] }).exitCode === 0;
  } catch {
    return false; // no such program here
  }
}
