/** Artefacts on a local disk, by content. */
import { z } from "zod";
import { definePlugin, provide } from "../define.ts";

const options = z.strictObject({
  root: z.string().min(1).meta({ description: "folder of the store" }),
});

export default definePlugin({
  name: "storage-local",
  version: "0.1.0",
  hookApi: "0.1",
  config: z.strictObject({}),
  provides: [
    provide("storage", {
      id: "local",
      summary: "content-addressed files and folders on a local disk",
      runs: "worker",
      options,
      traits: { schemes: ["file"] },
      async run(_, { options }) {
        const { openStore } = await import("./store.ts");
        return openStore(options.root);
      },
    }),
  ],
});
