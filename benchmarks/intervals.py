"""Means of a few seeds with 95 % intervals."""

import math

import numpy as np

# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom; for more, the last one is too large by 4 %.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def mean_and_interval(values: list[float]) -> str:
    """The mean, with the half-width of its 95 % interval (Student's t) from two values on; "" for none."""
    if not values:
        return ""
    mean = np.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = _T[min(len(values) - 1, len(_T)) - 1] * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{mean:.2f} ± {half:.2f}"
