"""Finds a way to the goal of many levels and keeps it in solutions.json, seed -> actions as digits.

python -m external.platformer.tools.solve_levels --seeds 30 [--seconds 25]; call it again to resume.
Solutions that the present ROM does not accept are looked for anew.
"""

import argparse
import json
import time
from pathlib import Path

from external.platformer.tools.play import FreeGame, replay, solve

SOLUTIONS_FPATH = Path(__file__).parent.parent / "solutions.json"


def read_solutions() -> dict[int, list[int]]:
    """Seed -> actions."""
    if not SOLUTIONS_FPATH.exists():
        return {}
    return {
        int(seed): [int(a) for a in digits]
        for seed, digits in json.loads(SOLUTIONS_FPATH.read_text(encoding="utf-8")).items()
    }


def write_solutions(solutions: dict[int, list[int]]) -> None:
    rows = {str(seed): "".join(map(str, solutions[seed])) for seed in sorted(solutions)}
    SOLUTIONS_FPATH.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30, help="solve the levels of seeds 0 to this")
    parser.add_argument("--seconds", type=float, default=25, help="stop after the level at which this time is over")
    arguments = parser.parse_args()
    start = time.monotonic()
    solutions, game = read_solutions(), FreeGame()
    solutions = {seed: actions for seed, actions in solutions.items() if replay(game, seed, actions)}
    for seed in range(arguments.seeds):
        if seed in solutions or time.monotonic() - start > arguments.seconds:
            continue
        actions = solve(game, seed)
        print(f"seed {seed}: {'no way found' if actions is None else f'{len(actions)} actions'}")
        if actions is not None:
            solutions[seed] = actions
    write_solutions(solutions)
    print(f"{len(solutions)} levels solved")


if __name__ == "__main__":
    main()
