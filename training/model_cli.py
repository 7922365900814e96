"""`python run.py model export|push|pull`: models as folders of model.safetensors, config.json and a card."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data_generation.arguments import OneLineParser, read_path
from data_generation.data.errors import FieldError, MissingPathError, UserError, under
from data_generation.data.files import atomic_path, first_foreign
from data_generation.data.hub import MODEL_FILES, HubPlace, fetch, has_card, local_path, send
from data_generation.data.reading import read_json
from models.checkpoint import FORMAT, LoadedModel, export_model, load_model
from models.tensor_file import written
from models.weights_folder import CONFIG_FNAME, is_weights_folder
from training.model_card import CARD_FILES, CARD_FNAME, write_card

_PLACE_HELP = "hf://<owner>/<name>"
_EVALUATIONS = Path("outputs/evaluation")


def main(argv: Sequence[str]) -> int:
    """Run one `model` command and return its exit code. UserError for wrong arguments, files and places."""
    arguments = _parser().parse_args(list(argv))
    arguments.run(arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python run.py model",
        description="Share models: as a folder of model.safetensors, config.json and a card, here or on the hub.",
        epilog="example: python run.py model export checkpoints/genie_redux_guided/demo/model-5000.pt --to shared/demo",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="export|push|pull")
    summary = "write a checkpoint in the form in which models are shared; needs no network"
    export = commands.add_parser("export", help=summary, description=summary)
    export.add_argument("--to", type=read_path, required=True, help="folder to write; an older model there is replaced")
    summary = "upload a checkpoint, or a folder that export wrote"
    push = commands.add_parser("push", help=summary, description=summary)
    push.add_argument("--to", required=True, help=f"{_PLACE_HELP}, made if need be")
    push.add_argument("--private", action="store_true", help="only for your own eyes, where it is made")
    for command, run in ((export, _export), (push, _push)):
        command.add_argument("model", help="model-<step>.pt, a folder with model.safetensors, or a place on the hub")
        command.add_argument("--tokenizer", help="a world model's, where it is not next to it")
        help_text = f"folder of evaluations; those of this checkpoint go into the card (default: {_EVALUATIONS})"
        command.add_argument("--evaluations", type=read_path, help=help_text)
        command.set_defaults(run=run)
    summary = "download a model"
    pull = commands.add_parser("pull", help=summary, description=summary)
    pull.add_argument("model", help=f"{_PLACE_HELP}[@<revision>]")
    pull.add_argument("--to", type=read_path, required=True, help="new folder, or an earlier copy to bring up to date")
    pull.set_defaults(run=_pull)
    return parser


def _export(arguments: argparse.Namespace) -> None:
    target: Path = arguments.to
    _check_target(target)
    path, loaded = _load(arguments)
    # Its card's images, and words that somebody added, are nowhere else.
    if target.resolve() == (path if path.is_dir() else path.parent).resolve():
        raise FieldError("--to", target, "is the folder of the model itself", "give a new folder")
    with atomic_path(target) as folder:
        _write(folder, path, loaded, arguments.evaluations or _EVALUATIONS)
    print(f"wrote '{target}': {', '.join(sorted(entry.name for entry in target.iterdir()))}")


def _check_target(target: Path) -> None:
    """FieldError where something else than an older export would be replaced."""
    remedy = "give a new folder"
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        values = read_json(target / CONFIG_FNAME, "")
        is_model = isinstance(values, dict) and values.get("format") == FORMAT
    except (UserError, OSError):
        is_model = False
    if not is_model:
        raise FieldError("--to", target, "exists and holds no model", remedy)
    if (foreign := first_foreign(target, (*MODEL_FILES, *CARD_FILES))) is not None:
        problem = f"holds '{foreign}', which no export wrote and which would be lost"
        raise FieldError("--to", target, problem, f"move it away, or {remedy}")


def _push(arguments: argparse.Namespace) -> None:
    place = HubPlace.parse("--to", arguments.to, "model")
    path, loaded = _load(arguments)
    exported = path if path.is_dir() else path.parent
    with TemporaryDirectory() as parent:
        # What export wrote is pushed with its card, which somebody may have completed.
        if is_weights_folder(path) and (exported / CARD_FNAME).is_file():
            address = send(place, exported, private=arguments.private)
        else:
            evaluations = None if has_card(place) else arguments.evaluations or _EVALUATIONS
            _write(Path(parent) / "model", path, loaded, evaluations)
            address = send(place, Path(parent) / "model", private=arguments.private)
    print(f"pushed to {address}: use it as {arguments.to}")


def _pull(arguments: argparse.Namespace) -> None:
    place = HubPlace.parse("model", arguments.model, "model")
    folder = fetch(place, arguments.to)
    if missing := [name for name in MODEL_FILES if not (folder / name).is_file()]:
        raise place.error(f"has no {missing[0]}", "it is not a model of this project")
    with under("", path="model"):
        loaded = load_model(folder)
    print(f"pulled a {loaded.config.model} of step {loaded.step} into '{arguments.to}'")


def _load(arguments: argparse.Namespace) -> tuple[Path, LoadedModel[Any]]:
    evaluations = arguments.evaluations
    if evaluations is not None and not evaluations.is_dir():
        raise MissingPathError("--evaluations", evaluations, "is not a folder", "give that of evaluations, or omit it")
    path = local_path("model", arguments.model, "model")
    tokenizer = local_path("--tokenizer", arguments.tokenizer, "model") if arguments.tokenizer else None
    with under("", path="model", tokenizer_fpath="--tokenizer"):
        return path, load_model(path, tokenizer_path=tokenizer)


def _write(folder: Path, path: Path, loaded: LoadedModel[Any], evaluations: Path | None) -> None:
    """Write a model's folder, with a card where the folder of evaluations is given."""
    with written(folder):
        folder.mkdir()
        export_model(folder, loaded.model, loaded.config, loaded.step)
        if evaluations is not None:
            write_card(folder, path, loaded, evaluations)
