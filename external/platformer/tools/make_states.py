"""Writes the start states of the integration: Level00 to Level59 hold the levels of seeds 0 to 59.

python -m external.platformer.tools.make_states; to be called after every build that changes the ROM.
"""

import gzip
import json

import stable_retro

from external.platformer.tools.play import GAME, INTEGRATION_DPATH, MAX_BUILD_FRAMES, FreeGame, select_instance

NUM_STATES = 60


def main() -> None:
    """Power on, wait for the first level, then save the first frame of each level."""
    game = FreeGame(stable_retro.State.NONE)
    env = game.env
    env.reset()
    for _ in range(MAX_BUILD_FRAMES):
        env.em.step()
        env.data.update_ram()
    first_frame = env.em.get_state()
    folder = INTEGRATION_DPATH / GAME
    for old in folder.glob("*.state"):
        old.unlink()
    for seed in range(NUM_STATES):
        env.initial_state = first_frame  # so that a state does not depend on those before it
        select_instance(env, seed)
        # Without time stamp or name, so that the same state gives the same file.
        (folder / f"Level{seed:02d}.state").write_bytes(gzip.compress(env.initial_state, 9, mtime=0))
    (folder / "metadata.json").write_text(json.dumps({"default_state": "Level00"}) + "\n")
    game.close()


if __name__ == "__main__":
    main()
