"""Benchmarks' command lines: mistakes are one line, and every option that is given counts."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import cached_ids, cluster, few_labels, play, super_resolution, threads
from benchmarks.command_line import run_command
from benchmarks.keyed_rollouts import held_key
from benchmarks.models_cases import SIZES
from benchmarks.quality import expected_tokens, rounds, tokens
from launcher.errors import USER_ERROR
from models.construct_model import build_model
from models.tensor_file import shapes_only
from training.clip_cache import kept_outputs

FILM = "film --model weights/cinderfoot"


@pytest.mark.parametrize(
    ("run", "words", "line"),
    [
        (tokens.run, "nowhere.pt --dataset x", r"'x' not found"),
        (rounds.run, "nowhere.pt --dataset x", r"'x' not found"),
        (expected_tokens.run, "nowhere.pt --dataset x", r"'x' not found"),
        (tokens.run, "nowhere.pt", r"required: --dataset"),
        (play.run, FILM, r"film writes a GIF: give --film <folder>$"),
        (play.run, f"{FILM} --film x --keys RIGHT", r"--keys: 'RIGHT' does not say for how many frames .* RIGHT:20"),
        (play.run, f"{FILM} --film x --keys RIGHT:x", r"--keys: 'x' is not a whole number"),
        (play.run, f"{FILM} --film x --keys RIHGT:2", r"--keys=RIHGT: is no action of the model; use some of .*RIGHT"),
        (play.run, "film --model nowhere.pt --film x", r"nowhere\.pt.* not found"),
        (threads.run, "--seconds 0", r"--seconds: 0 is not positive"),
        (few_labels.run, "--dataset nowhere", r"'nowhere' not found"),
        (super_resolution.run, "nowhere.pt nowhere --to x", r"nowhere.* not found"),
    ],
)
def test_mistakes_are_one_line(
    run: Callable[[Sequence[str]], None], words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(run, words.split()) == USER_ERROR
    (error,) = capsys.readouterr().err.splitlines()
    assert re.search(line, error), error


def test_keys_are_held_for_some_frames() -> None:
    assert held_key("ACTION_JUMP:5") == ("ACTION_JUMP", 5)
    with pytest.raises(argparse.ArgumentTypeError, match="must be at least 1"):
        held_key("RIGHT:0")


def test_a_plan_by_data_sheet_has_the_given_share_and_network() -> None:
    step = cluster.CountedStep("step", clips=4, operations=1e12, parameters=10**8, kept=1e9)
    usual, half = (
        cluster.plan(step, machine, 64, sharded=False)
        for machine in (cluster.by_data_sheet(0.35, 400), cluster.by_data_sheet(0.7, 200))
    )
    assert usual == pytest.approx(cluster.plan(step, cluster.H100, 64, sharded=False))
    assert half["compute"] == pytest.approx(usual["compute"] / 2)
    assert half["communicate"] == pytest.approx(usual["communicate"] * 2)


@pytest.mark.parametrize("size", SIZES)
def test_ids_are_kept_at_every_size(size: str, tmp_path: Path) -> None:
    """By default a run does not keep those of a tokenizer that sees clips: two equal columns would be compared."""
    config = cached_ids.config_of("genie_redux_guided", size, tmp_path)
    with shapes_only():
        model = build_model(config)
    assert kept_outputs(config.train, model)
