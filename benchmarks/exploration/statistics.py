"""Interquartile means with confidence intervals (Agarwal et al. 2021)."""

from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 5000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An interquartile mean and its bootstrap confidence interval."""

    center: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.center:.4g} [{self.low:.4g}, {self.high:.4g}]"


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis; a value cut by a quartile counts with what is left of it."""
    ordered = np.sort(values, axis=-1)
    count = values.shape[-1]
    edges = np.arange(count + 1) / count
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return (ordered * weights).sum(axis=-1) / weights.sum()


def interval(*strata: np.ndarray, seed: int = 0) -> Interval:
    """Of one value per seed, an array (N,) for each game: percentile bootstrap over the seeds of each game.

    With several games it is the stratified bootstrap: each resample has as many values of every game as there are.
    """
    rng = np.random.default_rng(seed)
    resampled = []
    for values in strata:
        choice = rng.integers(len(values), size=(NUM_RESAMPLES, len(values)))
        resampled.append(np.asarray(values, float)[choice])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(interquartile_mean(np.concatenate(resampled, axis=1)), [tail, 1 - tail])
    center = interquartile_mean(np.concatenate(strata).astype(float))
    return Interval(float(center), float(low), float(high))
