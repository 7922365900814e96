"""`run.py demo`: its commands are printed, valid, and end at the first failure."""

import shlex
from pathlib import Path

import pytest

import run
from launcher import demo
from tests.launcher_helpers import EVAL, TRAIN


@pytest.fixture
def demo_calls(tmp_path, monkeypatch) -> list[list[str]]:
    monkeypatch.chdir(tmp_path)
    return []


def fake_run(calls: list[list[str]], failing: int = 0):
    """A launcher that writes down what it is asked to run, and leaves a checkpoint behind a training."""

    def launch(arguments) -> int:
        calls.append(list(arguments))
        if len(calls) == failing:
            return 3
        if arguments[1] == "train":
            folder = demo.TOKENIZER_DPATH if "config=demo_tokenizer" in arguments else demo.MODEL_DPATH
            folder.mkdir(parents=True)
            for step in (9, 10):
                (folder / f"model-{step}.pt").touch()
        return 0

    return launch


def test_demo_prints_the_commands_that_it_runs(demo_calls, capsys):
    assert demo.main([], fake_run(demo_calls)) == 0
    text = capsys.readouterr().out
    assert [call[:2] for call in demo_calls[1:]] == [TRAIN, TRAIN, EVAL, EVAL]
    for call in demo_calls:
        assert f"$ python run.py {shlex.join(call)}\n" in text
    assert f"tokenizer_fpath={demo.TOKENIZER_DPATH}/model-10.pt" in demo_calls[2]
    assert "Total" in text


def test_demo_stops_at_the_first_failure(demo_calls):
    assert demo.main([], fake_run(demo_calls, failing=2)) == 3
    assert len(demo_calls) == 2


def test_demo_commands_are_valid(entries, demo_calls):
    """Each command composes, and trains into the folder where the next one looks."""
    assert demo.main([], fake_run(demo_calls)) == 0
    for call in demo_calls:
        assert run.main(call) == 0
    _, tokenizer, model, *evaluations = entries.configs
    assert Path(tokenizer.train.save_root_dpath) / tokenizer.model / tokenizer.train.wandb_name == demo.TOKENIZER_DPATH
    assert Path(model.train.save_root_dpath) / model.model / model.train.wandb_name == demo.MODEL_DPATH
    assert {config.eval.dataset_name for config in evaluations} == {demo.DATASET}
    assert [config.train.resume_ckpt for config in (tokenizer, model)] == ["latest", "latest"]
