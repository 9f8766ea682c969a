/** Good, same, bad: how often one of two models was preferred (Waver 5.1; Wan 4.6). */
export interface Gsb {
  readonly good: number;
  readonly same: number;
  readonly bad: number;
}

export interface GsbScore extends Gsb {
  /** (G - B) / (G + S + B), from -1 to 1. */
  readonly score: number;
  readonly goodRate: number;
  readonly sameRate: number;
  readonly badRate: number;
  /** Wins with ties as half ones. */
  readonly winRate: number;
}

export function gsbScore({ good, same, bad }: Gsb): GsbScore {
  const all = good + same + bad;
  return {
    ...{ good, same, bad },
    score: (good - bad) / all,
    goodRate: good / all,
    sameRate: same / all,
    badRate: bad / all,
    winRate: (good + same / 2) / all,
  };
}
