"""The launcher: `python run.py <command> <mode> <overrides>`; `python run.py --help` lists the commands."""

import os
import sys


def main(argv: list[str]) -> int:
    """Run one command; returns its exit code. May be called any number of times in one process."""
    # OpenMP threads that wait at a barrier go to sleep after 2000 iterations instead of spinning for long, which makes
    # training several times slower on a machine that runs anything else (docs/results/benchmarks.md). libgomp reads
    # the variable when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        # Slow: in the middle of it the user may press Ctrl-C.
        from launcher.main import launch

        return launch(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
