/**
 * The one place that reads configuration: a `waver` file (cosmiconfig, from the start folder upwards and from the
 * user's configuration folder) and `WAVER_*` variables. Flag > environment > project file > user file > default.
 */
import { availableParallelism, homedir, totalmem } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import { WaverError } from "../plugins/errors.ts";
import { socketPath } from "./socket.ts";

const Bag = z.record(z.string(), z.unknown());
const Seconds = z.number().nonnegative();

/** What a person may write in a configuration file; everything has a default. */
export const ConfigFile = z.strictObject({
  home: z.string().optional().meta({ description: "folder of journal, store, plugins and job folders" }),
  cache: z.string().optional().meta({ description: "folder of what can be made again" }),
  socket: z.string().optional().meta({ description: "path of the daemon's unix socket" }),
  tcp: z
    .strictObject({
      host: z.string().default("127.0.0.1"),
      port: z.int().min(0).max(65535),
      token: z.string().min(32).optional(),
    })
    .optional()
    .meta({ description: "opt-in TCP listener; without a token one is made and written to <home>/token" }),
  plugins: z
    .strictObject({
      list: z
        .array(z.string())
        .default([])
        .meta({ description: "plugins that must load; one that cannot is an error" }),
      disable: z.array(z.string()).default([]).meta({ description: "plugins that are left out" }),
      discover: z
        .boolean()
        .default(true)
        .meta({ description: "load every built-in and installed plugin; false: only those in the list" }),
    })
    .prefault({}),
  plugin: z.record(z.string(), Bag).default({}).meta({ description: "configuration of a plugin by its name" }),
  defaults: z
    .record(z.string(), z.record(z.string(), z.unknown()))
    .default({})
    .meta({ description: "operation -> slot -> pick used when a request is silent" }),
  storage: z
    .looseObject({ id: z.string() })
    .optional()
    .meta({ description: "provider of the storage hook that keeps artefacts, options beside its id" }),
  keepAlive: Seconds.default(300).meta({ description: "seconds an idle provider stays loaded" }),
  patience: z.number().positive().default(60).meta({
    description:
      "seconds that code of a third party's plugin may show no sign of life before it is cut off (its own word wins); our own gets ten times as long",
  }),
  memoryBudget: z.int().positive().optional().meta({
    description:
      "bytes that loaded providers may take in a runner; default 70 % of memory, of a GPU's own where that is less",
  }),
  threads: z.int().positive().optional().meta({ description: "threads of one runner" }),
  device: z
    .string()
    .regex(/^(cpu|cuda:\d+)$/, "a device is cpu or cuda:N")
    .default("cpu"),
  workers: z.int().positive().optional().meta({ description: "processes in the worker pool" }),
  media: z
    .strictObject({
      ffmpeg: z.string().optional().meta({ description: "the ffmpeg program; searched when absent" }),
      maxPixels: z
        .int()
        .positive()
        .optional()
        .meta({ description: "pixels of one frame beyond which a file is refused" }),
      threads: z.int().min(1).max(2).optional().meta({ description: "threads of one decoder" }),
      stallSeconds: z
        .number()
        .positive()
        .optional()
        .meta({ description: "seconds without output after which a decoder is killed" }),
    })
    .prefault({}),
  hub: z
    .strictObject({
      endpoint: z.url({ protocol: /^https?$/ }).default("https://huggingface.co"),
      token: z.string().optional(),
    })
    .prefault({})
    .meta({ description: "where `waver pull` fetches models; also HF_ENDPOINT and HF_TOKEN" }),
  endpoint: z.strictObject({ url: z.url(), model: z.string(), key: z.string().optional() }).optional().meta({
    description: "OpenAI-compatible endpoint, given to every plugin whose own configuration has a field of this name",
  }),
});
export type ConfigFile = z.input<typeof ConfigFile>;

/** The configuration after defaults: paths are absolute, sizes are known. */
export interface Config
  extends Omit<
    z.output<typeof ConfigFile>,
    "home" | "cache" | "socket" | "storage" | "memoryBudget" | "threads" | "workers"
  > {
  readonly home: string;
  readonly cache: string;
  readonly socket: string;
  readonly storage: { readonly id: string } & Readonly<Record<string, unknown>>;
  readonly memoryBudget: number;
  readonly threads: number;
  readonly workers: number;
  /** Digest of everything above except secrets: written beside outputs. */
  readonly hash: string;
}

export interface LoadConfigOptions {
  /** Folder from which a project file is searched. */
  readonly from?: string;
  /** Values that win over every file, as flags do. */
  readonly set?: ConfigFile;
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** Finds, reads and checks the configuration. Throws `invalid_input` that names the file and the field. */
export async function loadConfig(options: LoadConfigOptions = {}): Promise<Config> {
  const env = options.env ?? process.env;
  const handed = env[HANDED_DOWN];
  if (handed !== undefined) return JSON.parse(handed) as Config;
  const user = join(env["XDG_CONFIG_HOME"] ?? join(homedir(), ".config"), "waver");
  const found = [await searched(user, false), await searched(options.from ?? process.cwd(), true)];
  const layers = [
    ...found,
    { where: "the environment", value: fromEnvironment(env) },
    { where: "the given settings", value: options.set ?? {} },
  ];
  let merged: Record<string, unknown> = {};
  for (const { where, value } of layers) {
    check(where, value);
    // Top-level keys replace each other whole: no deep merge of user data.
    merged = { ...merged, ...defined(value) };
  }
  return resolved(ConfigFile.parse(merged), env);
}

/**
 * Environment that hands a resolved configuration to a child process, so that both mean the same. A process that is not
 * `trusted` (it runs the code of a third-party `plugin`) gets no secrets and no other plugin's configuration.
 */
export function handDown(config: Config, how: { trusted: boolean; plugin?: string | null }): Record<string, string> {
  const { endpoint: _endpoint, tcp: _tcp, hub, plugin, ...rest } = config;
  const own = how.plugin == null || plugin[how.plugin] === undefined ? {} : { [how.plugin]: plugin[how.plugin] };
  return {
    [HANDED_DOWN]: JSON.stringify(how.trusted ? config : { ...rest, hub: { endpoint: hub.endpoint }, plugin: own }),
  };
}

const HANDED_DOWN = "WAVER_RESOLVED_CONFIG";

/** Not package.json: its `waver` field is the manifest of a plugin. */
const PLACES = [
  "waver.config.ts",
  "waver.config.mjs",
  "waver.config.js",
  "waver.config.json",
  ".waverrc",
  ".waverrc.json",
  ".waverrc.yaml",
  ".waverrc.yml",
];

async function searched(folder: string, upwards: boolean): Promise<{ where: string; value: unknown }> {
  const { cosmiconfig } = await import("cosmiconfig");
  const explorer = cosmiconfig("waver", {
    searchPlaces: PLACES,
    ...(upwards ? { stopDir: homedir(), searchStrategy: "global" } : { searchStrategy: "none" }),
  });
  const result = await explorer.search(folder).catch((error: unknown) => {
    throw unreadable(error, folder);
  });
  return { where: result?.filepath ?? folder, value: result === null || result.isEmpty ? {} : result.config };
}

/** Of a file that is no JSON or YAML, or whose code throws, its name and the first line of what is wrong. */
function unreadable(error: unknown, folder: string): WaverError {
  const { message, filepath } = error as { message: string; filepath?: string };
  const lines = message.split("\n").map((line) => line.trim());
  const [, file, reason] = /^(?:JSON|YAML) Error in (.*?):\s*(.*)$/.exec(lines.join(" ")) ?? [];
  const where = file ?? filepath ?? `or above ${folder}`;
  const why = (reason ?? lines[0] ?? "").split(/ {2,}| \d+ \| /)[0];
  return new WaverError("invalid_input", `the configuration in ${where} cannot be read: ${why}`, {
    cause: error,
    hint: "mend that file, or remove it",
  });
}

function check(where: string, value: unknown): void {
  const parsed = ConfigFile.safeParse(value);
  if (parsed.success) return;
  const issue = parsed.error.issues[0];
  const field = issue === undefined || issue.path.length === 0 ? "" : `${issue.path.join(".")}: `;
  throw new WaverError(
    "invalid_input",
    `the configuration in ${where} is wrong: ${field}${issue?.message ?? "unreadable"}`,
    {
      hint: `known settings: ${Object.keys(ConfigFile.shape).join(", ")}`,
    },
  );
}

const defined = (value: unknown): Record<string, unknown> =>
  Object.fromEntries(Object.entries(value as Record<string, unknown>).filter(([, each]) => each !== undefined));

/** `WAVER_*` variables as a configuration layer. `WAVER_PLUGIN_<NAME>` holds JSON for one plugin. */
function fromEnvironment(env: Readonly<Record<string, string | undefined>>): Record<string, unknown> {
  const number = (name: string): number | undefined => {
    const text = env[name];
    if (text === undefined || text === "") return undefined;
    const value = Number(text);
    if (!Number.isFinite(value)) throw new WaverError("invalid_input", `${name} is not a number: ${text}`);
    return value;
  };
  const url = env["WAVER_ENDPOINT_URL"];
  const port = number("WAVER_TCP_PORT");
  const key = env["WAVER_ENDPOINT_KEY"];
  const token = env["WAVER_TCP_TOKEN"];
  return {
    home: env["WAVER_HOME"],
    cache: env["WAVER_CACHE"],
    socket: env["WAVER_SOCKET"],
    device: env["WAVER_DEVICE"],
    keepAlive: number("WAVER_KEEP_ALIVE"),
    patience: number("WAVER_PATIENCE"),
    memoryBudget: number("WAVER_MEMORY_BUDGET"),
    threads: number("WAVER_THREADS"),
    workers: number("WAVER_WORKERS"),
    media:
      env["WAVER_FFMPEG"] === undefined || env["WAVER_FFMPEG"] === "" ? undefined : { ffmpeg: env["WAVER_FFMPEG"] },
    tcp:
      port === undefined
        ? undefined
        : {
            port,
            ...(env["WAVER_TCP_HOST"] === undefined ? {} : { host: env["WAVER_TCP_HOST"] }),
            ...(token === undefined ? {} : { token }),
          },
    hub: hubFrom(env),
    endpoint:
      url === undefined || url === ""
        ? undefined
        : { url, model: env["WAVER_ENDPOINT_MODEL"] ?? "default", ...(key === undefined ? {} : { key }) },
  };
}

/** The hub's own variables, as its other clients read them. */
function hubFrom(env: Readonly<Record<string, string | undefined>>): ConfigFile["hub"] {
  const [endpoint, token] = [env["HF_ENDPOINT"] || undefined, env["HF_TOKEN"] || undefined];
  if (endpoint === undefined && token === undefined) return undefined;
  return { ...(endpoint === undefined ? {} : { endpoint }), ...(token === undefined ? {} : { token }) };
}

function resolved(file: z.output<typeof ConfigFile>, env: Readonly<Record<string, string | undefined>>): Config {
  const base = (name: string, below: string): string => join(env[name] ?? join(homedir(), below), "waver");
  const home = absolute(file.home ?? base("XDG_DATA_HOME", ".local/share"));
  const cores = availableParallelism();
  const whole = {
    ...file,
    home,
    cache: absolute(file.cache ?? base("XDG_CACHE_HOME", ".cache")),
    socket: absolute(file.socket ?? socketPath(home)),
    storage: { id: "local", root: join(home, "store"), ...file.storage },
    memoryBudget: file.memoryBudget ?? Math.floor(memoryLimit() * 0.7),
    threads: file.threads ?? cores,
    workers: file.workers ?? Math.max(1, Math.min(4, cores - 1)),
  };
  const { endpoint, tcp, hub: _hub, ...open } = whole; // where a model was fetched from changes nothing that is done with it
  const plain = JSON.stringify({ ...open, endpoint: endpoint?.url ?? null, tcp: tcp?.port ?? null }, sortedKeys);
  return { ...whole, hash: `sha256:${new Bun.CryptoHasher("sha256").update(plain).digest("hex")}` };
}

/** JSON replacer: objects with sorted keys, so that equal settings have equal digests. */
const sortedKeys = (_: string, value: unknown): unknown =>
  value !== null && typeof value === "object" && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : value;

/** Memory this process may use: a container's limit where there is one. */
function memoryLimit(): number {
  const constrained = process.constrainedMemory?.() ?? 0;
  const total = totalmem();
  return constrained > 0 && constrained < total ? constrained : total;
}

const absolute = (path: string): string => (isAbsolute(path) ? path : resolve(path));
