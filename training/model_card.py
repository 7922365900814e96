"""The card of a shared model, README.md: what it is, how to use it, and the figures of its evaluations."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_generation.data.errors import UserError
from data_generation.data.reading import read_json
from models.checkpoint import LoadedModel
from models.construct_model import kind_of
from models.provenance import code_commit
from models.tensor_file import digest
from training.report import metric_rows

logger = logging.getLogger(__name__)

CARD_FNAME = "README.md"
_ABOUT = {
    "tokenizer": ("A video tokenizer: clips to discrete tokens and back.", "tokenizer_fpath"),
    "lam": ("A latent action model: which of a few actions lies between two frames.", "lam_fpath"),
    "super_resolution": ("Super-resolution of a game's frames.", "play.super_resolution_fpath"),
    "causal_guided": ("A world model, a plain causal transformer as a baseline.", "eval.model_fpath"),
    "genie_redux": ("A world model with latent actions: it continues a game's frames.", "play.model_fpath"),
}
_GUIDED = ("A world model: it continues a game's frames, conditioned on actions.", "play.model_fpath")
# That take the model by a key of a section; all others are those of a training.
_COMMANDS = {
    "play": "play",
    "eval": "genie_redux eval config=demo",
    "lam_fpath": "genie_redux train config=demo model=genie_redux tokenizer_fpath=<a tokenizer>",
}
# Images of an evaluation that a card shows, where they are there.
_PICTURES = ("film-000.gif", "clip-000.gif", "strips.png", "psnr_per_frame.png")
_NOTE = "In the figures, mean PSNR favours a repeated frame, as equal frames count 100 dB: compare pooled PSNR."
# What `write_card` writes.
CARD_FILES = (CARD_FNAME, *(f"images/*-{name}" for name in _PICTURES))


def write_card(folder: Path, checkpoint: Path, loaded: LoadedModel[Any], evaluations_dpath: Path) -> None:
    """Write README.md, and the images that it shows, for the model in `folder`, which was loaded from `checkpoint`.

    Evaluations of that checkpoint are looked for below `evaluations_dpath`; a warning names those of other weights that
    lay at its path.
    """
    found = list(_evaluations(evaluations_dpath, checkpoint, loaded.step))
    lines = [*_head(loaded, found), *_facts(loaded), *(["", _NOTE] if found else [])]
    for number, (evaluation_dpath, content) in enumerate(found):
        lines += ["", *_results(content)]
        for name in _PICTURES:
            if (evaluation_dpath / name).is_file():
                (folder / "images").mkdir(exist_ok=True)
                shutil.copyfile(evaluation_dpath / name, folder / "images" / f"{number}-{name}")
                lines += ["", f"![{content['mode']}: {name}](images/{number}-{name})"]
    (folder / CARD_FNAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _evaluations(dpath: Path, checkpoint: Path, step: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The evaluations of a checkpoint below a folder, and their metrics.json."""
    weights = digest(checkpoint)
    for path in sorted(dpath.rglob("metrics.json")):
        try:
            content = read_json(path, "evaluate again")
            path_then, metrics = Path(content["checkpoint"]), content["metrics"]
            if path_then.resolve() != checkpoint.resolve() or not isinstance(metrics, dict):
                continue
            # Earlier versions noted no weights.
            if (content["step"], content.get("weights", weights)) == (step, weights):
                yield path.parent, content
            else:
                logger.warning("'%s' is of other weights: not on the card; evaluate again", path.parent)
        except (UserError, KeyError, TypeError):
            # Of another version, or damaged: not this checkpoint's.
            continue


def _head(loaded: LoadedModel[Any], found: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    """The lines that the hub reads: tags, and where figures were measured."""
    datasets = sorted({str(content["dataset"]) for _, content in found})
    tags = ["world-model", "video", "reinforcement-learning", loaded.config.model]
    lines = ["---", "library_name: genie-redux", f"tags: {json.dumps(tags)}"]
    if datasets:
        lines.append(f"evaluated_on: {json.dumps(datasets)}")
    return [*lines, "---", ""]


def _facts(loaded: LoadedModel[Any]) -> list[str]:
    config = loaded.config
    about, key = _ABOUT.get(config.model, _GUIDED)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    frames = getattr(config, kind_of(config).frames_of)
    command = _COMMANDS.get(key.split(".")[0], "genie_redux train config=demo")
    rows = {
        "model": f"`{config.model}` of GenieRedux",
        "parameters": f"{parameters / 1e6:.1f} M",
        "training steps": str(loaded.step),
        "frames": f"{frames.image_size}×{frames.image_size} pixels in patches of {frames.patch_size}",
    }
    if config.action_names:
        rows["actions of its dataset"] = ", ".join(f"`{name}`" for name in config.action_names)
    if (commit := code_commit()) is not None:
        rows["written by commit"] = f"`{commit}`"
    table = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
    usage = ["```", f"python run.py {command} {key}=<this folder, or hf://<owner>/<name>>", "```"]
    title = [f"# {config.model}", "", about, ""]
    return [*title, *table, "", "With [GenieRedux](https://arxiv.org/abs/2409.06445):", "", *usage]


def _results(content: dict[str, Any]) -> list[str]:
    title = f"## {content['mode']} on {content['num_clips']} clips of {content['dataset']}"
    rows = [f"| {label} | {value:.4g} |" for label, value in metric_rows(content)]
    notes = [f"- {note}" for note in content.get("notes", [])]
    return [title, "", "| metric | value |", "| --- | --: |", *rows, *(["", *notes] if notes else [])]
