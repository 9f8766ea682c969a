// Preload of `bun test`: when a test file is over, no tensor that it made may be alive. Never loads the engine itself.
// Bun runs a preload's own hooks once for the whole run, so each test file is given one more afterAll as it is loaded:
// its last, so that the file's own clean-up has run.

import { readFileSync } from "node:fs";
import { plugin } from "bun";

interface Counter {
  liveTensors(): number;
}

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

plugin({
  name: "leak check",
  setup(build) {
    build.onLoad({ filter: /\.test\.ts$/ }, ({ path }) => ({
      contents: `${readFileSync(path, "utf8")}\nimport { afterAll as afterThisFile } from "bun:test"; afterThisFile(globalThis[Symbol.for("waver.leak.check")]);`,
      loader: "ts",
    }));
  },
});
