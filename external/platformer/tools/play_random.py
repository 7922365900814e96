"""How far play by chance gets, and how fast the emulator is.

python -m external.platformer.tools.play_random --policy random|sticky [--episodes 50] [--actions 500]
"""

import argparse
import time

import numpy as np

from external.platformer.tools.make_states import NUM_STATES
from external.platformer.tools.play import BUTTONS, FreeGame

KEEP_PROBABILITY = {"random": 0.0, "sticky": 0.9}  # of the last action; otherwise one of five at random


def measure(game: FreeGame, policy: str, num_episodes: int, num_actions: int) -> dict[str, np.ndarray]:
    """Per episode: largest x, actions played, what the hero died of. Episode i is the level of seed i mod 60."""
    rng = np.random.default_rng(0)
    rows = []
    for episode in range(num_episodes):
        game.start(episode % NUM_STATES)
        action, count, is_over = int(rng.integers(len(BUTTONS))), 0, False
        while count < num_actions and not is_over:
            if rng.random() >= KEEP_PROBABILITY[policy]:
                action = int(rng.integers(len(BUTTONS)))
            is_over = game.act(action)
            count += 1
        rows.append((game.value("max_x"), count, game.value("death"), game.value("goal")))
    return dict(zip(("max_x", "actions", "death", "goal"), np.array(rows).T, strict=True))


def frames_per_second(game: FreeGame, num_frames: int = 6000) -> tuple[float, float]:
    """Emulator frames per second: of the bare emulator, and of Stable-Retro's `step` with image and info."""
    emulator, env = game.env.em, game.env
    start = time.perf_counter()
    for _ in range(num_frames):
        emulator.step()
    middle = time.perf_counter()
    for _ in range(num_frames // 3):
        env.step(game.masks[0])
    return num_frames / (middle - start), num_frames // 3 / (time.perf_counter() - middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=list(KEEP_PROBABILITY), default="random")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--actions", type=int, default=500)
    arguments = parser.parse_args()
    game = FreeGame()
    game.start(0)
    print("frames per second: emulator {:.0f}, env.step {:.0f}".format(*frames_per_second(game)))
    found = measure(game, arguments.policy, arguments.episodes, arguments.actions)
    percentiles = np.percentile(found["max_x"], (0, 10, 25, 50, 75, 90, 100)).astype(int)
    print(f"{arguments.policy}: max_x at 0, 10, 25, 50, 75, 90, 100 %: {percentiles.tolist()}")
    deaths = np.bincount(found["death"], minlength=4).tolist()
    print(f"survived, fell, spiked, met an enemy: {deaths}; mean actions {found['actions'].mean():.0f}")
    print(f"goals: {found['goal'].sum()}")


if __name__ == "__main__":
    main()
