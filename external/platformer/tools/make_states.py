"""Writes start states: those of the integration, or of as many more levels as you like into a folder of your own.

python -m external.platformer.tools.make_states; to be called after every build that changes the ROM: Level00 to
Level59 hold the levels of seeds 0 to 59.

python -m external.platformer.tools.make_states --levels 1000 --target <folder>: the states Seed00060 to Seed00999 of
the levels after these. With `config.connector.rom_dpath=<folder>`, instance n of the game is then seed n, up to 999.
"""

import argparse
import gzip
import json
import shutil
from pathlib import Path

import stable_retro

from data_generation.data.files import write_atomically
from external.platformer.tools.play import GAME, INTEGRATION_DPATH, MAX_BUILD_FRAMES, FreeGame, select_instance

NUM_STATES = 60
NUM_SEEDS = 0xFFFF
_ROM_FNAMES = ("rom.nes", "rom.sha")


def write_states(paths: dict[int, Path]) -> None:
    """Write the state of each seed's level (0 to 65534) into its file: power on, wait, build the level."""
    game = FreeGame(stable_retro.State.NONE)
    env = game.env
    env.reset()
    for _ in range(MAX_BUILD_FRAMES):
        env.em.step()
        env.data.update_ram()
    first_frame = env.em.get_state()
    for seed, path in paths.items():
        env.initial_state = first_frame  # so that a state does not depend on those before it
        select_instance(env, seed)
        # Without time stamp or name, so that the same state gives the same file.
        write_atomically(path, gzip.compress(env.initial_state, 9, mtime=0))
    game.close()


def write_more_states(target: Path, num_levels: int) -> None:
    """Write the ROM and the states of the seeds 60 to `num_levels` - 1 into `<target>/Cinderfoot-Nes-v0`.

    Names are such that they follow the integration's own in alphabetical order, which is that of instances. What is
    there is kept.
    """
    folder = target / GAME
    folder.mkdir(parents=True, exist_ok=True)
    for name in _ROM_FNAMES:
        shutil.copyfile(INTEGRATION_DPATH / GAME / name, folder / name)
    paths = {seed: folder / f"Seed{seed:05d}.state" for seed in range(NUM_STATES, num_levels)}
    write_states({seed: path for seed, path in paths.items() if not path.exists()})


def _write_own_states() -> None:
    folder = INTEGRATION_DPATH / GAME
    for old in folder.glob("*.state"):
        old.unlink()
    write_states({seed: folder / f"Level{seed:02d}.state" for seed in range(NUM_STATES)})
    (folder / "metadata.json").write_text(json.dumps({"default_state": "Level00"}) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", type=int, help=f"number of levels in all, {NUM_STATES + 1} to {NUM_SEEDS}")
    parser.add_argument("--target", type=Path, help="folder for those that the integration has no state of")
    arguments = parser.parse_args()
    if (arguments.levels is None) != (arguments.target is None):
        parser.error("--levels and --target go together")
    if arguments.levels is None:
        _write_own_states()
    elif NUM_STATES < arguments.levels <= NUM_SEEDS:
        write_more_states(arguments.target, arguments.levels)
    else:
        parser.error(f"--levels {arguments.levels}: use {NUM_STATES + 1} to {NUM_SEEDS}")


if __name__ == "__main__":
    main()
