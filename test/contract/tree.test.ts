// What the tree as a whole promises: who may import whom, what names may stand where, no trace of a machine.
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

const root = join(import.meta.dir, "..", "..");

/** Tracked files and new ones that git does not ignore: a fault is found before it is committed. */
const files = Bun.spawnSync(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: root })
  .stdout.toString()
  .split("\0")
  .filter((path) => path !== "" && existsSync(join(root, path)));

const texts = new Map<string, string>();
for (const path of files) {
  const bytes = readFileSync(join(root, path));
  if (!bytes.subarray(0, 8000).includes(0)) texts.set(path, bytes.toString("utf8"));
}

const isCode = (path: string): boolean => /\.(ts|tsx|mjs|js|cc|cpp|cu|h|cuh|py|css|html|sh)$/.test(path);
const isScript = (path: string): boolean => /\.(ts|tsx|mjs)$/.test(path);
const isTest = (path: string): boolean => path.startsWith("test/") || /\.test\.tsx?$/.test(path);

interface Import {
  readonly from: string;
  /** Path in the tree. */
  readonly to: string;
  /** Loaded as soon as `from` is: neither a type nor `await import()`. */
  readonly eager: boolean;
}

/** The package's own export names, as a file in the tree may also spell them. */
const exported: Readonly<Record<string, string>> = {
  "waver/plugin": "plugins/index.ts",
  "waver/plugin/testing": "plugins/testing.ts",
  "waver/client": "daemon/client.ts",
};

function importsOf(path: string, text: string): Import[] {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
  const found: Import[] = [];
  const add = (specifier: string, eager: boolean): void => {
    const to = specifier.startsWith(".") ? relative(root, join(root, dirname(path), specifier)) : exported[specifier];
    if (to !== undefined) found.push({ from: path, to, eager });
  };
  for (const [, kind, specifier] of code.matchAll(
    /^\s*(?:import|export)\b(\s+type\b)?[^"'`;]*?\bfrom\s*["']([^"']+)["']/gm,
  )) {
    add(specifier ?? "", kind === undefined);
  }
  for (const [, specifier] of code.matchAll(/^\s*import\s+["']([^"']+)["']/gm)) add(specifier ?? "", true);
  for (const [, specifier] of code.matchAll(/\bimport\(\s*["']([^"']+)["']/g)) add(specifier ?? "", false);
  return found;
}

const imports = new Map<string, Import[]>();
for (const [path, text] of texts) if (isScript(path)) imports.set(path, importsOf(path, text));

/** plugins/x/... -> "plugins/x"; null for the contract's own files. */
const pluginOf = (path: string): string | null => path.match(/^plugins\/[^/]+(?=\/)/)?.[0] ?? null;
const isContract = (path: string): boolean => path.startsWith("plugins/") && pluginOf(path) === null;
const area = (path: string): string => path.split("/")[0] ?? "";
const areas = ["cli", "daemon", "plugins", "native", "configs", "test"];

/**
 * House rules: `cli -> daemon/{client,wire}`, `daemon -> plugins/*.ts`, `daemon/runner -> native`, and so on. The client
 * also knows plugins/errors.ts: codes and their exit statuses, which are data. Operations that compute reach tensors
 * through daemon/runner/*, and by `await import()`, for the daemon itself reads their declarations (the last test).
 */
function isAllowed(from: string, to: string): boolean {
  if (!areas.includes(area(to)) || isTest(from)) return true; // package.json and the like; tests may see everything
  if (from.startsWith("cli/"))
    return area(to) === "cli" || ["daemon/client.ts", "daemon/wire.ts", "plugins/errors.ts"].includes(to);
  if (from.startsWith("daemon/runner/")) return area(to) === "daemon" || area(to) === "native" || isContract(to);
  if (from.startsWith("daemon/")) return area(to) === "daemon" || isContract(to);
  if (isContract(from)) return isContract(to) || area(to) === "native";
  if (from.startsWith("plugins/")) return pluginOf(from) === pluginOf(to) || isContract(to) || area(to) === "native";
  if (from.startsWith("native/")) return area(to) === "native";
  if (from.startsWith("configs/")) return area(to) === "configs" || isContract(to);
  return true;
}

/** The first chain of eager imports from `start` into native/, or null. */
function pathToNative(start: string): string[] | null {
  const queue: string[][] = [[start]];
  const seen = new Set([start]);
  for (let chain = queue.shift(); chain !== undefined; chain = queue.shift()) {
    for (const { to, eager } of imports.get(chain.at(-1) ?? "") ?? []) {
      if (!eager || seen.has(to)) continue;
      if (area(to) === "native") return [...chain, to];
      seen.add(to);
      queue.push([...chain, to]);
    }
  }
  return null;
}

/** `file:line: text` of every match, so that a failure can be clicked. */
function matches(pattern: RegExp, select: (path: string) => boolean): string[] {
  const found: string[] = [];
  for (const [path, text] of texts) {
    if (!select(path)) continue;
    text.split("\n").forEach((line, i) => {
      if (pattern.test(line)) found.push(`${path}:${i + 1}: ${line.trim().slice(0, 120)}`);
    });
  }
  return found;
}

/** Written in pieces, since this file is searched too. */
const hosts = [
  ["npmjs", "org"],
  ["npmjs", "com"],
  ["yarnpkg", "com"],
  ["pypi", "org"],
  ["pythonhosted", "org"],
  ["pytorch", "org/whl"],
  ["deb", "debian", "org"],
  ["crates", "io"],
  ["golang", "org"],
  ["maven", "org"],
];

describe("the tree", () => {
  test("was read", () => {
    expect(texts.has("package.json")).toBe(true);
    expect([...imports.values()].flat().length).toBeGreaterThan(50);
  });

  test("holds no path of a machine", () => {
    // in pieces as well; `~/work/x`, `$root/x` and `./root/x` are nobody's machine
    const pattern = new RegExp(`(?<![\\w.}~$])/(?:${["work", "farm", "root"].join("|")})/|/tmp/${"bash"}_jobs`);
    expect(matches(pattern, () => true)).toEqual([]);
  });

  test("names no host of a package registry", () => {
    const pattern = new RegExp(hosts.map((parts) => parts.join("\\.")).join("|"));
    expect(matches(pattern, () => true)).toEqual([]);
  });

  test("has no source file over 500 lines", () => {
    const long = [...texts]
      .filter(([path, text]) => isCode(path) && text.split("\n").length > 501)
      .map(([path]) => path);
    expect(long).toEqual([]);
  });

  test("keeps model names out of daemon/ and cli/", () => {
    const names = [
      "wan",
      "umt5",
      "t5",
      "flan",
      "qwen",
      "dinov2",
      "raft",
      "efficientnet",
      "smollm",
      "minilm",
      "siglip",
      "llama",
    ];
    const spelt = names.flatMap((name) => [name, name.toUpperCase(), `${name[0]?.toUpperCase()}${name.slice(1)}`]);
    // `clip` is also the word for a piece of video: only the model's own spelling counts
    const pattern = new RegExp(`(?<![A-Za-z])(?:${spelt.join("|")}|CLIP)(?![a-z])`);
    const select = (path: string): boolean => /^(daemon|cli)\//.test(path) && isCode(path) && !isTest(path);
    expect(matches(pattern, select)).toEqual([]);
  });
});

describe("imports", () => {
  test("are understood: every relative one leads to a file", () => {
    const missing = [...imports.values()]
      .flat()
      .filter(({ to }) => !existsSync(join(root, to)) && !to.endsWith(".node"));
    expect(missing.map(({ from, to }) => `${from} -> ${to}`)).toEqual([]);
  });

  test("follow the house rules", () => {
    const broken = [...imports.values()].flat().filter(({ from, to }) => !isAllowed(from, to));
    expect(broken.map(({ from, to }) => `${from} -> ${to}`)).toEqual([]);
  });

  test("a plugin's index and the contract load no tensors", () => {
    const light = [...imports.keys()].filter(
      (path) => /^plugins\/([^/]+\/index|[^/]+)\.ts$/.test(path) && !isTest(path),
    );
    expect(light.map(pathToNative).filter((chain) => chain !== null)).toEqual([]);
  });

  test("the daemon's own process loads no tensors", () => {
    const own = [...imports.keys()].filter(
      (path) => /^(daemon|cli)\//.test(path) && !path.startsWith("daemon/runner/") && !isTest(path),
    );
    expect(own.map(pathToNative).filter((chain) => chain !== null)).toEqual([]);
  });
});
