"""Keep a dataset's later levels: those that no model was trained on.

python -m benchmarks.exploration.levels <dataset> <target> <number of the first level>

Episodes are linked where that is possible; those that are there already are kept.
"""

import sys
from pathlib import Path

import numpy as np

from data_generation.data.data import Environment, list_environments
from data_generation.data.subsets import Taken, take


def keep_levels(dataset: Path, target: Path, first: int) -> None:
    """Write `target`: the dataset without the levels before `first`."""
    for path in list_environments(dataset):
        environment = Environment(path)
        take(environment, np.flatnonzero(environment.instances >= first), target / path.name, Taken())


if __name__ == "__main__":
    keep_levels(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
