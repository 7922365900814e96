"""The launcher: `python run.py <command> <mode> <overrides>`; `python run.py --help` lists the commands."""

import os
import sys


def main(argv: list[str]) -> int:
    """Run one command; returns its exit code. May be called any number of times in one process."""
    from launcher.main import launch

    # OpenMP threads that wait at a barrier go to sleep after 2000 iterations instead of spinning for long, which makes
    # training several times slower on a machine that runs anything else (docs/results/benchmarks.md). libgomp reads
    # the variable when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    return launch(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
