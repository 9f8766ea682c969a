import { expect, test } from "bun:test";
import { GenerateInput } from "../../daemon/generation/request.ts";
import flow from "../../plugins/flow/index.ts";
import cfg from "../../plugins/guide-cfg/index.ts";
import wan from "./wan.ts";

const providers = [...cfg.provides, ...flow.provides].map(({ provider }) => provider);

test.each(Object.entries(wan))("%s is what generate takes", (_name, recipe) => {
  const { guide, sampler, ...request } = recipe as typeof wan.fourSteps;
  GenerateInput.parse({ ...request, model: "model", prompt: "x" });
  for (const { id, ...options } of [guide, sampler].filter((each) => each !== undefined))
    providers.find((each) => each.id === id)?.options.parse(options);
  expect(providers.map(({ id }) => id)).toEqual(expect.arrayContaining([guide.id]));
});
