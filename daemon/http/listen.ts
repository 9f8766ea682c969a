/** Opens the unix socket, and a TCP port when one is configured, each behind its gate. */
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import { isIP } from "node:net";
import { dirname, join } from "node:path";
import { WaverError } from "../../plugins/errors.ts";
import type { Config } from "../config.ts";
import { type GateOptions, gate, MAX_BODY, type Passed, refuse } from "./gate.ts";
import type { Sessions } from "./sessions.ts";

export interface Listener extends AsyncDisposable {
  readonly address: string;
}

/** What clients of the unix socket write as host: they have no port. */
const SOCKET_HOSTS: ReadonlySet<string> = new Set(["localhost"]);

const common = {
  // For requests that are still being sent; answers may take their time (see `serve`).
  idleTimeout: 30,
  // A little above our own limit, so that the answer is ours too.
  maxRequestBodySize: MAX_BODY + (1 << 20),
  error: () => refuse("internal", "something went wrong inside the daemon"),
} as const;

/** What the gate knows of addresses: which need no token, and which take forms. */
export interface Doors {
  readonly open: ReadonlySet<string>;
  readonly multipart: ReadonlySet<string>;
  readonly sessions: Sessions;
}

export async function listenOnSocket(path: string, app: Passed, doors: Doors): Promise<Listener> {
  const folder = dirname(path);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const facts = lstatSync(folder);
  // Somebody else may have made the folder first, where folders are shared (the temporary folder).
  if (!facts.isDirectory() || (process.getuid !== undefined && facts.uid !== process.getuid()))
    throw new WaverError("forbidden", "the folder of the daemon's socket belongs to somebody else", {
      hint: "set WAVER_SOCKET to a path in a folder of your own",
    });
  chmodSync(folder, 0o700);
  if (existsSync(path)) {
    if (await answers(path))
      throw new WaverError("conflict", "another program answers on the daemon's socket", {
        hint: "stop it, or set WAVER_SOCKET",
      });
    rmSync(path);
  }
  // The types know idleTimeout for ports only; sockets honour it too.
  const options = {
    ...common,
    unix: path,
    fetch: serve({ ...doors, hosts: SOCKET_HOSTS, origins: new Set(), token: null, sessions: null }, app),
  };
  const server = Bun.serve(options as unknown as Bun.Serve.Options<undefined>);
  chmodSync(path, 0o600);
  return {
    address: `unix:${path}`,
    [Symbol.asyncDispose]: async () => {
      await server.stop(true);
      rmSync(path, { force: true });
    },
  };
}

export async function listenOnTcp(config: Config, app: Passed, doors: Doors): Promise<Listener | null> {
  const { tcp } = config;
  if (tcp === undefined) return null;
  const { host } = tcp;
  if (!isLoopback(host))
    throw new WaverError("forbidden", `${host} can be reached from other machines, and this daemon speaks no TLS`, {
      hint: "listen on 127.0.0.1 and put a reverse proxy with TLS, or an SSH tunnel, in front of it",
    });
  const token = tcp.token ?? tokenOf(config.home);
  let handle: Handle = () => refuse("daemon_unreachable", "the daemon is starting");
  const server = Bun.serve({
    ...common,
    hostname: host,
    port: tcp.port,
    fetch: (request, server) => handle(request, server),
  });
  const names = [...new Set([host.includes(":") ? `[${host}]` : host, "localhost", "127.0.0.1"])].map(
    (name) => `${name}:${server.port}`,
  );
  const origins = new Set(names.map((name) => `http://${name}`));
  handle = serve({ ...doors, hosts: new Set(names), origins, token }, app);
  return { address: `http://${names[0]}`, [Symbol.asyncDispose]: () => server.stop(true) };
}

type Handle = (request: Request, server: Bun.Server<undefined>) => Response | Promise<Response>;

/** Once a request has come whole, its answer is not hurried: event streams are silent for long. */
const serve =
  (options: GateOptions, app: Passed): Handle =>
  (request, server) =>
    gate(options, (passed, body) => {
      server.timeout(passed, 0);
      return app(passed, body);
    })(request);

const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));

/** As long as a token of the configuration must be. */
const TOKEN = /^[\x21-\x7e]{32,}$/;

/** The token of this home: 256 random bits in a file that only its owner can read. A file that others can read is refused. */
export function tokenOf(home: string): string {
  const path = join(home, "token");
  if (existsSync(path)) {
    if ((lstatSync(path).mode & 0o077) !== 0)
      throw new WaverError("forbidden", "others can read the daemon's token file", {
        hint: "remove the file `token` of the home folder; the next start makes a new one",
      });
    const kept = readFileSync(path, "utf8").trim();
    if (TOKEN.test(kept)) return kept;
    throw new WaverError("forbidden", "the daemon's token file holds no token", {
      hint: "remove the file `token` of the home folder; the next start makes a new one",
    });
  }
  const token = randomBytes(32).toString("hex");
  const fd = openSync(path, "wx", 0o600);
  writeSync(fd, `${token}\n`);
  closeSync(fd);
  return token;
}

async function answers(path: string): Promise<boolean> {
  try {
    await fetch("http://localhost/v1/status", { unix: path, signal: AbortSignal.timeout(2_000) });
    return true;
  } catch (error) {
    // Nobody listens any more, or what listens does not speak HTTP in time: only the first is ours to remove.
    return (error as Error).name === "TimeoutError";
  }
}
