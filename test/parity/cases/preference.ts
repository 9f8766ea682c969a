/** GSB scores, Bradley-Terry ratings and Elo in order, from the matches that the case lists. */
import { gsbScore } from "../../../plugins/evaluate-preference/gsb.ts";
import { bradleyTerry, type Match, sequentialElo } from "../../../plugins/evaluate-preference/ratings.ts";
import { defineCase } from "../case.ts";

interface Expected {
  readonly gsb: readonly { readonly good: number; readonly same: number; readonly bad: number }[];
  readonly matches: readonly Match[];
  readonly sequential_elo: { readonly k: number; readonly start: number };
}

export default defineCase({
  cases: ["eval_gsb_elo"],
  run(golden, produce) {
    const { gsb, matches, sequential_elo } = golden.expected as unknown as Expected;
    const tolerance = golden.params.tolerance as Record<
      "gsb" | "theta" | "elo" | "log_likelihood" | "sequential_elo",
      number
    >;
    produce.json(
      "gsb",
      gsb.map((counts) => {
        const { good, same, bad, score, goodRate, sameRate, badRate, winRate } = gsbScore(counts);
        return {
          ...{ good, same, bad, score },
          ...{ good_rate: goodRate, same_rate: sameRate, bad_rate: badRate, win_rate_half_ties: winRate },
        };
      }),
      tolerance.gsb,
    );
    produce.json("matches", matches);
    const names = Array.from({ length: golden.params.models as number }, (_, i) => String(i));
    const { theta, elo, logLikelihood, wins } = bradleyTerry(names, matches);
    // the narrowest of the case's tolerances for all of it: Elo is 174 times theta
    produce.json("bradley_terry", { theta, elo, log_likelihood: logLikelihood, win_matrix: wins }, tolerance.theta);
    const { k, start } = sequential_elo;
    produce.json(
      "sequential_elo",
      { k, start, ratings: sequentialElo(names.length, matches, k) },
      tolerance.sequential_elo,
    );
  },
});
