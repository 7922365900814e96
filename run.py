"""The launcher: `python run.py <command> <mode> <overrides>`; `python run.py --help` lists the commands."""

import os
import sys


def main(argv: list[str]) -> int:
    """Run one command; returns its exit code. May be called any number of times in one process."""
    from launcher.main import launch

    # Before torch loads its threads: those that wait for each other shall sleep soon. Their default, spinning, makes
    # training several times slower wherever something else runs on the machine, too (docs/benchmarks.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    return launch(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
