"""The launcher: `python run.py <command> <mode> <overrides>`; `python run.py --help` lists the commands."""

import sys


def main(argv: list[str]) -> int:
    """Run one command; returns its exit code. May be called any number of times in one process."""
    from launcher.main import launch

    return launch(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
