/**
 * How a browser on this machine gets in: a ticket, minted for somebody who has the token and good for one minute and one use,
 * is exchanged for a session cookie (SameSite=Strict, HttpOnly). A cookie reaches every port of a host, so its session may
 * look and generate, and nothing that would change what the daemon runs.
 */
import { randomBytes, timingSafeEqual } from "node:crypto";

const TICKET_MS = 60_000;
/** A working day; sessions also end with the daemon. */
const SESSION_MS = 12 * 3600_000;
/** More at once are nobody's browser. */
const MOST = 64;

/** What a page may do beside looking. */
const WRITES: readonly RegExp[] = [
  /^POST \/v1\/(generate|models-list|uploads|videos)$/,
  /^DELETE \/v1\/(jobs|videos)\/[^/]+$/,
];

const digest = (text: string): string => new Bun.CryptoHasher("sha256").update(text).digest("hex");
const secret = (): string => randomBytes(32).toString("hex");

export class Sessions {
  /** By digest, so that looking one up takes no time that depends on the secret; each with its end. */
  readonly #tickets = new Map<string, number>();
  readonly #sessions = new Map<string, number>();
  readonly #now: () => number;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  mint(): { ticket: string; seconds: number } {
    const ticket = secret();
    this.#add(this.#tickets, ticket, TICKET_MS);
    return { ticket, seconds: TICKET_MS / 1000 };
  }

  /** The session that a ticket buys, once; null when it is spent, late or made up. */
  redeem(ticket: string): string | null {
    const key = digest(ticket);
    const end = this.#tickets.get(key);
    this.#tickets.delete(key);
    if (end === undefined || this.#now() > end) return null;
    const session = secret();
    this.#add(this.#sessions, session, SESSION_MS);
    return session;
  }

  has(session: string): boolean {
    const end = this.#sessions.get(digest(session));
    return end !== undefined && this.#now() <= end;
  }

  #add(to: Map<string, number>, value: string, ms: number): void {
    for (const [key, end] of to) if (this.#now() > end || to.size >= MOST) to.delete(key);
    to.set(digest(value), this.#now() + ms);
  }
}

export const mayWrite = (method: string, path: string): boolean =>
  WRITES.some((each) => each.test(`${method} ${path}`));

/** One name a port, so that two daemons of a machine do not overwrite each other's. */
export const cookieName = (host: string): string => `waver_session_${/:(\d+)$/.exec(host)?.[1] ?? "80"}`;

export const setCookie = (host: string, session: string): string =>
  `${cookieName(host)}=${session}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${SESSION_MS / 1000}`;

/** The session in a Cookie header; null when there is none, or more than one of that name. */
export function sessionIn(cookies: string | null, host: string): string | null {
  const name = cookieName(host);
  const found = (cookies ?? "")
    .split(";")
    .map((each) => each.trim())
    .filter((each) => each.startsWith(`${name}=`));
  return found.length === 1 ? (found[0] as string).slice(name.length + 1) : null;
}

/** Constant time in the secret: texts of any length are compared by digest. */
export const sameSecret = (given: string, wanted: string): boolean =>
  given !== "" && timingSafeEqual(Buffer.from(digest(given)), Buffer.from(digest(wanted)));
