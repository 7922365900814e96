"""Put trained weights into `weights/`, where `python run.py play` finds them, each with a card of how it was made.

    python -m benchmarks.ship guided --model <…/model-N.pt> --dataset <its dataset> --commands <text file>
    python -m benchmarks.ship agent57 --model <…/model_best_reward.pt> --commands <text file> --film <GIF>

Commands are taken as they are from the text file; data, seed and settings from the dataset and from the run's
state-N.pt next to the checkpoint; figures from the evaluations of that checkpoint (run it in the folder from which they
were made: their paths may be relative). `weights/README.md` is written anew: it lists what is there. An agent's weights
are stored as float16 and read as float32. Weights of that name that are there already are overwritten with `--replace`
only.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import make_parser, run_command
from data.data import ClipDataset
from data_generation.arguments import read_path
from data_generation.data.data import Environment, list_environments
from data_generation.data.errors import UserError
from data_generation.data.files import atomic_path, write_atomically
from external.agent57.checkpoint import Agent57Info, read_agent57, save_agent57
from models.checkpoint import LoadedModel, export_model, load_model
from models.weights_folder import CONFIG_FNAME, WEIGHTS_FNAME
from training.model_card import CARD_FNAME, write_card
from training.run_folder import read_state

WEIGHTS_DPATH = Path(__file__).resolve().parent.parent / "weights"
# Of the figures' datasets, for the models whose card has such.
DATASETS = (
    "`levels_…` and `whole_…` are sticky random play, `ways_…` scripted ways to the gates, `mixed_…` both; `…_unseen`:",
    "of levels that were not trained on ([data](../../docs/results/recipe.md)).",
)
ABOUT = {
    "tokenizer": "frames to tokens and back, to train world models on",
    "cinderfoot": "a world model of 448 levels, from their start to their gates; what `python run.py play` plays",
    "guided": "a world model of the first twelve levels; experiments in exploration begin with it",
    "latent": "a world model that is played with latent actions",
}
AGENT = "agent57"
AGENT_FNAME = "agent.pt"
# Of the run, by the names of its keys.
SETTINGS = ("seed", "train.num_train_steps", "train.batch_size", "train.num_frames", "optimizer.learning_rate")


def ship(args: argparse.Namespace) -> None:
    """Write one folder and the list of all."""
    loaded = load_model(args.model)
    # Checkpoints from before training recorded them.
    dataset = ClipDataset(args.dataset, "train", 2)
    loaded.config.levels = loaded.config.levels or dataset.levels
    loaded.config.n_skip_frames = loaded.config.n_skip_frames or dataset.n_skip_frames
    target = args.weights / args.name
    target.parent.mkdir(exist_ok=True)
    with atomic_path(target) as folder:
        folder.mkdir()
        export_model(folder, loaded.model, loaded.config, loaded.step)
        write_card(folder, args.model, loaded, args.evaluations)
        lines = ["", "## How it was made", *made(args, loaded)]
        with (folder / CARD_FNAME).open("a", encoding="utf-8") as card:
            card.write("\n".join(lines) + "\n")
    write_atomically(args.weights / "README.md", "\n".join(overview(args.weights)) + "\n")


def ship_agent(args: argparse.Namespace) -> None:
    """Write the folder of the agent and the list of all."""
    stored = read_agent57(args.model)
    info, folder = stored.info, args.weights / AGENT
    with atomic_path(folder) as target:
        target.mkdir()
        save_agent57(target / AGENT_FNAME, stored.load().half(), info)
        lines = agent_card(info, args.commands.read_text(encoding="utf-8").strip())
        if args.film:
            shutil.copyfile(args.film, target / "film.gif")
            lines += ["", "![An episode](film.gif)"]
        write_atomically(target / CARD_FNAME, "\n".join(lines) + "\n")
    write_atomically(args.weights / "README.md", "\n".join(overview(args.weights)) + "\n")


def agent_card(info: Agent57Info, commands: str) -> list[str]:
    """The lines of the agent's card."""
    return [
        *("# Agent57 for Cinderfoot", ""),
        "An agent that plays the first four levels for the environment reward and is never used to train a world",
        "model: its play is what they are tested on.",
        *("", "| | |", "| --- | --- |"),
        f"| actions | {', '.join(f'`{name}`' for name in info.action_names)} |",
        f"| policies | {info.family.num_policies} |",
        f"| convolutions, LSTM | {', '.join(map(str, info.network.channels))} channels, {info.network.lstm} units |",
        f"| trained for | {info.epoch} epochs |",
        f"| mean return of its test | {info.mean_return:.1f} |",
        *("", "How it learns, and how its play compares with random play and AutoExplore's:"),
        "[results](../../docs/results/agent57.md).",
        *("", "## How it was made", "", "```", commands, "```", "", "## Play with it", "", "```"),
        *("python run.py generate config=retro_act/agent57_cinderfoot", "```"),
    ]


def made(args: argparse.Namespace, loaded: LoadedModel[Any]) -> Iterator[str]:
    """Lines about the commands, the data and the settings."""
    yield from (
        "",
        "As the commands were given; presets and recipes change, so that today they may train another model.",
    )
    yield from ("`config.json` has the settings of these weights.", "")
    if args.name in ("cinderfoot", "guided"):
        yield from (*DATASETS, "")
    yield from ("```", args.commands.read_text(encoding="utf-8").strip(), "```", "", "| | |", "| --- | --- |")
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
    yield from ("# Included weights", "")
    yield "Small models of Cinderfoot, the free game in `external/platformer/`, trained on CPUs; where a card says so,"
    yield "for some minutes on a GPU. `python run.py play` plays `cinderfoot`. Each folder has a card that says how it"
    yield "was made and what was measured; written by `python -m benchmarks.ship`. How long their rollouts stay close"
    yield "to the game is among [the results](../docs/results/play.md#the-included-weights)."
    yield ""
    yield from ("| folder | what it is | training steps | levels | MB |", "| --- | --- | --: | --- | --: |")
    for name, about in ABOUT.items():
        if not (weights / name / CONFIG_FNAME).is_file():
            continue
        values = json.loads((weights / name / CONFIG_FNAME).read_text(encoding="utf-8"))
        levels = "; ".join(f"{text} of {game}" for game, text in values["config"]["levels"].items())
        size = (weights / name / WEIGHTS_FNAME).stat().st_size / 1e6
        yield f"| [{name}]({name}/{CARD_FNAME}) | {about} | {values['step']} | {levels} | {size:.1f} |"
    if (path := weights / AGENT / AGENT_FNAME).is_file():
        about = "an agent that plays for the environment reward, to test world models on"
        epochs, size = read_agent57(path).info.epoch, path.stat().st_size / 1e6
        yield f"| [{AGENT}]({AGENT}/{CARD_FNAME}) | {about} | {epochs} epochs | 0-3 of Cinderfoot-Nes | {size:.1f} |"


def run(argv: Sequence[str]) -> None:
    parser = make_parser("ship", __doc__)
    parser.add_argument("name", choices=[*ABOUT, AGENT])
    parser.add_argument("--model", type=read_path, required=True, help="its checkpoint")
    parser.add_argument("--dataset", type=read_path, help="the dataset that a model was trained on")
    parser.add_argument("--commands", type=read_path, required=True, help="text file with the commands that made it")
    parser.add_argument("--evaluations", type=read_path, default=Path("outputs/evaluation"))
    parser.add_argument("--weights", type=read_path, default=WEIGHTS_DPATH)
    parser.add_argument("--film", type=read_path, help="of an agent: a GIF for its card")
    parser.add_argument("--replace", action="store_true", help="overwrite weights of that name")
    args = parser.parse_args(argv)
    if (target := args.weights / args.name).exists() and not args.replace:
        raise UserError(f"'{target}' is there already: give --replace to overwrite it")
    if args.name == AGENT:
        ship_agent(args)
    elif args.dataset is None:
        raise UserError("a model's card names its dataset: give --dataset")
    else:
        ship(args)


if __name__ == "__main__":
    sys.exit(run_command(run))
