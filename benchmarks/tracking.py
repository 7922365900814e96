"""How well the character of Cinderfoot is followed, against its position in the game's memory.

    python -m benchmarks.tracking [--levels 12] [--steps 500]

Each level is played once, with uniformly random actions on even levels and with long ones (repeated with probability
0.9) on odd ones, the ways in which a character stays at the start or gets far. A character counts as lost when the
tracker says so (the episode would end there), and as missed where it is more than half its height away.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.command_line import make_parser, read_count, run_command
from data_generation.config import ConnectorConfig
from data_generation.generator.connector_retro_act import RetroActConnector
from data_generation.generator.policy import RandomPolicy, StickyRandomPolicy

GAME = "Cinderfoot-Nes"
_BORDER = 8  # pixels of the console's image that the emulator cuts off at the left and at the top
_HALF_HEIGHT = 16


def follow(connector: RetroActConnector, level: int, num_steps: int) -> tuple[list[float], bool, float]:
    """Distance in pixels per step, whether the character was lost, and seconds per step."""
    env = connector.make_env(GAME, level)
    policy = StickyRandomPolicy(5, 0.9) if level % 2 else RandomPolicy(5)
    rng, carry = np.random.default_rng(level), policy.initial_carry()
    frame, _ = env.reset()
    errors, lost, start = [], False, time.process_time()
    for _ in range(num_steps):
        carry, action = policy(carry, frame, rng)  # type: ignore[arg-type]
        frame, _, terminated, lost, info = env.step(action)
        if lost or terminated:
            break
        x, y = info["x"] - info["camera_x"] - _BORDER, info["y"] - _BORDER - _HALF_HEIGHT
        errors.append(float(np.hypot(info["roi_x"] - x, info["roi_y"] - y)))
    seconds = (time.process_time() - start) / max(1, len(errors))
    env.close()
    return errors, lost, seconds


def run(argv: Sequence[str]) -> None:
    parser = make_parser("tracking", __doc__)
    parser.add_argument("--levels", type=read_count, default=12)
    parser.add_argument("--steps", type=read_count, default=500)
    arguments = parser.parse_args(argv)
    tracked = RetroActConnector(ConnectorConfig(game=GAME, roi_annotation_fpath="RetroAct_roi.csv"))
    runs = [follow(tracked, level, arguments.steps) for level in range(arguments.levels)]
    errors = np.array([error for run in runs for error in run[0]])
    print(f"{len(runs)} episodes, {len(errors)} steps: lost in {sum(run[1] for run in runs)}")
    print(f"error in pixels: mean {errors.mean():.1f}, median {np.median(errors):.1f}, largest {errors.max():.0f}")
    print(f"missed (more than {_HALF_HEIGHT} pixels away): {(errors > _HALF_HEIGHT).mean():.2%} of the steps")
    print(f"{1000 * float(np.median([run[2] for run in runs])):.2f} ms of CPU time per recorded frame, tracked")


if __name__ == "__main__":
    sys.exit(run_command(run))
