"""Put trained weights into `weights/`, where `python run.py play` finds them, each with a card of how it was made.

    python -m benchmarks.ship guided --model <…/model-N.pt> --dataset <its dataset> --commands <text file>

Commands are taken as they are from the text file; data, seed and settings from the dataset and from the run's
state-N.pt next to the checkpoint; figures from the evaluations of that checkpoint (run it in the folder from which they
were made: their paths may be relative). `weights/README.md` is written anew: it lists what is there.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.data import ClipDataset
from data_generation.data.data import Environment, list_environments
from data_generation.data.files import atomic_path, write_atomically
from models.checkpoint import LoadedModel, export_model, load_model
from models.weights_folder import CONFIG_FNAME, WEIGHTS_FNAME
from training.model_card import CARD_FNAME, write_card
from training.run_folder import read_state

WEIGHTS_DPATH = Path(__file__).resolve().parent.parent / "weights"
ABOUT = {
    "tokenizer": "frames to tokens and back, to train world models on",
    "guided": "a world model that is played by the game's actions; what `python run.py play` plays",
    "latent": "a world model that is played by actions that it found itself",
}
# Of the run, by the names of its keys.
SETTINGS = ("seed", "train.num_train_steps", "train.batch_size", "train.num_frames", "optimizer.learning_rate")


def ship(args: argparse.Namespace) -> None:
    """Write one folder and the list of all."""
    loaded = load_model(args.model)
    # Checkpoints from before training recorded them.
    loaded.config.levels = loaded.config.levels or ClipDataset(args.dataset, "train", 2).levels
    target = args.weights / args.name
    target.parent.mkdir(exist_ok=True)
    with atomic_path(target) as folder:
        folder.mkdir()
        export_model(folder, loaded.model, loaded.config, loaded.step)
        write_card(folder, args.model, loaded, args.evaluations)
        lines = ["", "## How it was made", *made(args, loaded)]
        with (folder / CARD_FNAME).open("a") as card:
            card.write("\n".join(lines) + "\n")
    write_atomically(args.weights / "README.md", "\n".join(overview(args.weights)) + "\n")


def made(args: argparse.Namespace, loaded: LoadedModel[Any]) -> Iterator[str]:
    """Lines about the commands, the data and the settings."""
    yield from ("", "```", args.commands.read_text().strip(), "```", "", "| | |", "| --- | --- |")
    levels = "; ".join(f"{text} of {game}" for game, text in loaded.config.levels.items())
    yield f"| levels | {levels} |"
    for path in list_environments(args.dataset):
        found = Environment(path).statistics()
        yield f"| data | {found['episodes']} episodes, {found['frames']} frames of `{path.name}` |"
    state = args.model.with_name(args.model.name.replace("model-", "state-"))
    record = read_state(state).get("run", {}) if state.is_file() else {}
    yield from (f"| `{key}` | {record[key]} |" for key in SETTINGS if key in record)


def overview(weights: Path) -> Iterator[str]:
    """The lines of weights/README.md."""
    yield from ("# Weights that come with the code", "")
    yield "Small models of Cinderfoot, the free game in `external/platformer/`, trained on CPUs. `python run.py play`"
    yield "plays `guided`. Each folder has a card that says how it was made and what was measured; written by"
    yield "`python -m benchmarks.ship`. How long the picture of `guided` stays that of the game is among"
    yield from ("[the results](../docs/results/play.md#the-weights-that-come-with-the-code).", "")
    yield from ("| folder | what it is | training steps | levels | MB |", "| --- | --- | --: | --- | --: |")
    for name, about in ABOUT.items():
        if not (weights / name / CONFIG_FNAME).is_file():
            continue
        values = json.loads((weights / name / CONFIG_FNAME).read_text())
        levels = "; ".join(f"{text} of {game}" for game, text in values["config"]["levels"].items())
        size = (weights / name / WEIGHTS_FNAME).stat().st_size / 1e6
        yield f"| [{name}]({name}/{CARD_FNAME}) | {about} | {values['step']} | {levels} | {size:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(ABOUT))
    parser.add_argument("--model", type=Path, required=True, help="model-<step>.pt")
    parser.add_argument("--dataset", type=Path, required=True, help="the dataset that it was trained on")
    parser.add_argument("--commands", type=Path, required=True, help="text file with the commands that made it")
    parser.add_argument("--evaluations", type=Path, default=Path("outputs/evaluation"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DPATH)
    ship(parser.parse_args())


if __name__ == "__main__":
    main()
