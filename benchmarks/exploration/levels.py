"""Keep a dataset's later levels: those that no model was trained on.

python -m benchmarks.exploration.levels <dataset> <target> <number of the first level>

The target appears when it is complete.
"""

import shutil
import sys
from pathlib import Path

from data_generation.data.data import list_environments
from data_generation.data.files import atomic_path

INFO_FNAME = "info.json"


def keep_levels(dataset: Path, target: Path, first: int) -> None:
    """Write `target`: the dataset without the levels before `first`; levels are the numbers of the folders."""
    with atomic_path(target) as folder:
        for environment in list_environments(dataset):
            later = [path for path in environment.glob("*/*.episode") if int(path.parent.name) >= first]
            for path in (environment / INFO_FNAME, *later):
                copy = folder / path.relative_to(dataset)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)


if __name__ == "__main__":
    keep_levels(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
