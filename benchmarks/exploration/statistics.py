"""Interquartile means with bootstrap intervals (Agarwal et al. 2021), or with the range of a few seeds."""

from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 5000
CONFIDENCE = 0.95
# Of three or four values the bootstrap's interval is their range, and holds the truth far less often than it says.
LEAST_SEEDS = 5


@dataclass(frozen=True)
class Interval:
    """An interquartile mean with its bootstrap interval, or with the range of fewer than `LEAST_SEEDS` seeds.

    `count`: how many seeds, in the game with the fewest.
    """

    center: float
    low: float
    high: float
    count: int

    @property
    def kind(self) -> str:
        """What `low` and `high` are."""
        return "range" if self.count < LEAST_SEEDS else "95 % bootstrap interval"

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.center:.4g}"
        ends = f"({self.low:.4g} to {self.high:.4g})" if self.kind == "range" else f"[{self.low:.4g}, {self.high:.4g}]"
        return f"{self.center:.4g} {ends}"


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis; a value cut by a quartile counts with what is left of it."""
    ordered = np.sort(values, axis=-1)
    count = values.shape[-1]
    edges = np.arange(count + 1) / count
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return (ordered * weights).sum(axis=-1) / weights.sum()


def interval_over_seeds(*strata: np.ndarray) -> Interval:
    """Of one value per seed, an array (N,) for each game: percentile bootstrap over the seeds of each game.

    With several games it is the stratified bootstrap: each resample has as many values of every game as there are.
    """
    together, count = np.concatenate(strata).astype(float), min(map(len, strata))
    center = float(interquartile_mean(together))
    if count < LEAST_SEEDS:
        return Interval(center, float(together.min()), float(together.max()), count)
    rng, resampled = np.random.default_rng(0), []
    for values in strata:
        choice = rng.integers(len(values), size=(NUM_RESAMPLES, len(values)))
        resampled.append(np.asarray(values, float)[choice])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(interquartile_mean(np.concatenate(resampled, axis=1)), [tail, 1 - tail])
    return Interval(center, float(low), float(high), count)
