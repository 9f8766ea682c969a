// Preload of `bun test`: when a test file is over, no tensor that it made may be alive. Never loads the engine itself.
// Bun runs a preload's own hooks once for the whole run, so each test file is given one more afterAll as it is loaded:
// its last, so that the file's own clean-up has run. In the same way each file gets its time limit: `timeout` in
// bunfig.toml is not read, and setDefaultTimeout in a preload holds for the first file only.

import { readFileSync } from "node:fs";
import { plugin } from "bun";

interface Counter {
  liveTensors(): number;
}

/** For a test that says nothing else: Bun's own five seconds are less than a busy machine may need. */
const TEST_MS = 120_000;
const check = Symbol.for("waver.leak.check");
let already = 0; // what an earlier file left is that file's fault only

Object.assign(globalThis, {
  [check]: () => {
    const loaded = (globalThis as Record<symbol, unknown>)[Symbol.for("waver.native")] as Counter | undefined;
    const alive = loaded?.liveTensors() ?? 0;
    const left = alive - already;
    already = alive;
    if (left > 0) throw new Error(`${left} tensors are still alive after this file: a missing dispose or scope`);
  },
});

// On the line of the file's own first one: line numbers in failures stay true.
const before = `import { setDefaultTimeout as limitOfThisFile } from "bun:test"; limitOfThisFile(${TEST_MS});`;
const after = `import { afterAll as afterThisFile } from "bun:test"; afterThisFile(globalThis[Symbol.for("waver.leak.check")]);`;

plugin({
  name: "leak check",
  setup(build) {
    build.onLoad({ filter: /\.test\.ts$/ }, ({ path }) => ({
      contents: `${before} ${readFileSync(path, "utf8")}\n${after}`,
      loader: "ts",
    }));
  },
});
