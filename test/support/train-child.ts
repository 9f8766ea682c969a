/** Runs one `train` in a process of its own, to be killed: HOME and the request as JSON are its arguments. */

import { train } from "../../daemon/operations/train.ts";
import { setThreads } from "../../native/index.ts";
import { runOperation, testContext } from "./context.ts";

const [home, plugins, request] = process.argv.slice(2) as [string, string, string];
setThreads(1);
await using ctx = await testContext({ home, plugins: plugins.split(",") });
await runOperation(train, JSON.parse(request), ctx);
