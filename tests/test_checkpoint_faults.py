"""Checkpoints of any kind that are damaged, crafted or foreign: one line with the path, or the right weights."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_explore.src.agent import AgentInfo, agent_of, read_agent, save_agent
from data_generation.data.errors import UserError
from models.checkpoint import load_model, save_model
from models.original import OriginalFacts
from tests.fault_helpers import spoilt_copies
from tests.model_helpers import tiny_config, tiny_model
from tests.training_helpers import renamed, write_dataset
from tests.training_helpers import tiny_config as training_config
from training.main import run_dpath, train
from training.run_folder import read_state

REFERENCE = Path(__file__).parent / "fixtures" / "reference"


def _model(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path).model.state_dict()


def _original(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path, facts=OriginalFacts(image_size=16)).model.state_dict()


def _agent(path: Path) -> dict[str, torch.Tensor]:
    return agent_of(read_agent(path))[0].state_dict()


def _optimizer(path: Path) -> dict[str, torch.Tensor]:
    moments = read_state(path)["optimizer"]["state"]
    return {f"{i}.{name}": value for i, values in moments.items() for name, value in values.items()}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> str:
    """What a file from elsewhere may not make a message tell."""
    monkeypatch.setenv("HOME", "/home/of/the/user")
    return "/home/of/the/user"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    save_model(folder / "model-1.pt", tiny_model(), tiny_config(), 1)
    info = AgentInfo(["LEFT", "RIGHT"], (3, 16, 16), "conv", epoch=1)
    save_agent(folder / "agent.pt", info.build(), info)
    cfg = renamed(training_config(write_dataset(folder / "root")), "run", num_train_steps=2)
    train(cfg)
    shutil.copy(run_dpath(cfg) / "state-2.pt", folder / "state-2.pt")
    shutil.copytree(REFERENCE / "tiny" / "genie_redux", folder / "original")
    return folder


FILES: dict[str, Callable[[Path], dict[str, torch.Tensor]]] = {
    "model-1.pt": _model,
    "tokenizer.pt": _model,
    "agent.pt": _agent,
    "state-2.pt": _optimizer,
    "original/model-1.pt": _original,
    "original/tokenizer.pt": _original,
}


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _check(read: Callable[[Path], dict[str, torch.Tensor]], path: Path, right: dict[str, torch.Tensor]) -> None:
    try:
        found, line = read(path), ""
    except UserError as error:
        found, line = {}, str(error)
    assert _same(found, right) if found else str(path) in line and "\n" not in line, line


@pytest.mark.parametrize("name", list(FILES))
def test_a_byte_that_is_wrong_is_noticed_wherever_it_is(whole: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(whole, tmp_path / "copy", ignore=shutil.ignore_patterns("root"))
    path, read = folder / name, FILES[name]
    content, right = path.read_bytes(), read(path)
    for spoilt in spoilt_copies(content, name):
        path.write_bytes(spoilt)
        _check(read, path, right)


@pytest.mark.parametrize("kind", ["folder", "fifo", "empty", "link to nothing", "text"])
@pytest.mark.parametrize("name", list(FILES))
def test_what_is_no_file_of_the_kind_is_one_line(whole: Path, tmp_path: Path, name: str, kind: str) -> None:
    folder = shutil.copytree(whole, tmp_path / "copy", ignore=shutil.ignore_patterns("root"))
    path = folder / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to(folder / "nothing")
    else:
        path.write_text("" if kind == "empty" else "hello")
    with pytest.raises(UserError) as line:
        FILES[name](path)
    assert "\n" not in str(line.value) and str(path) in str(line.value)


def _set(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value(content.get(keys[-1])) if callable(value) else value

    return change


def _drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


WEIGHT = "dynamics.to_logits.weight"
CRAFTED: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"no {key}": _drop(key) for key in ("format", "format_version", "step", "config", "model")},
    **{f"{key} is a list": _set(key, value=[1]) for key in ("format_version", "step", "config", "model")},
    **{f"{key} is null": _set(key, value=None) for key in ("format_version", "step", "config", "model")},
    "step is negative": _set("step", value=-1),
    "version is newer": _set("format_version", value=99),
    "weight is null": _set("model", WEIGHT, value=None),
    "weight is a number": _set("model", WEIGHT, value=1.0),
    "weight is NaN": _set("model", WEIGHT, value=lambda w: w * float("nan")),
    "weight is infinite": _set("model", WEIGHT, value=lambda w: w / 0),
    "weight is an integer": _set("model", WEIGHT, value=lambda w: w.long()),
    "weight is a truth value": _set("model", WEIGHT, value=lambda w: w > 0),
    "weight is complex": _set("model", WEIGHT, value=lambda w: w + 0j),
    "weight is sparse": _set("model", WEIGHT, value=lambda w: w.to_sparse()),
    "weight has another shape": _set("model", WEIGHT, value=lambda w: w[1:]),
    "weight is one number, expanded": _set("model", WEIGHT, value=lambda w: torch.zeros(1, 1).expand_as(w)),
    "weight is as large as memory": _set("model", WEIGHT, value=lambda w: torch.zeros(1).expand(2**42)),
    "weight is missing": _drop("model", WEIGHT),
    "tensor has no name": _set("model", value=lambda m: {**m, 3: torch.zeros(1)}),
    "everything is fresh": lambda content: content.update(fresh=[""], model={}),
    "a width of 2^40": _set("config", "dynamics", "dim", value=2**40),
    "a width of 10^30": _set("config", "dynamics", "dim", value=10**30),
    "a million layers": _set("config", "dynamics", "num_blocks", value=65_536),
    "heads are negative": _set("config", "dynamics", "heads", value=-1),
    "a rate is NaN": _set("config", "dynamics", "sample_temperature", value=float("nan")),
    "a part is null": _set("config", "dynamics", value=None),
    "a part is text": _set("config", "tokenizer", value="big"),
    "an unknown key": _set("config", "colour", value=1),
    "model is unknown": _set("config", "model", value="gpt"),
    "an interpolation": _set("config", "roi_table", value="${oc.env:HOME}"),
    "an interpolation in the model": _set("config", "model", value="${oc.env:HOME}"),
    "an interpolation in a list": _set("config", "action_names", value=["${oc.env:HOME}"] * 5),
    "a mapping among the actions": _set("config", "action_names", value=["LEFT", {"a": 1}]),
    "a list among the actions": _set("config", "action_names", value=[["LEFT"], "RIGHT"]),
    "a mapping for levels": _set("config", "levels", value={"game": {"a": 1}}),
    "an interpolated number": _set("config", "dynamics", "dim", value="${tokenizer.dim}"),
}


@pytest.mark.parametrize("name", list(CRAFTED))
def test_crafted_content_is_one_line_and_nothing_in_it_is_interpolated(
    whole: Path, tmp_path: Path, home: str, name: str
) -> None:
    shutil.copy(whole / "tokenizer.pt", tmp_path)
    content = torch.load(whole / "model-1.pt", weights_only=True)
    CRAFTED[name](content)
    path = tmp_path / "model-1.pt"
    torch.save(content, path)
    with pytest.raises(UserError) as line:
        load_model(path)
    assert "\n" not in str(line.value) and str(path) in str(line.value)
    assert home not in str(line.value).replace(str(path), "")


YAMLS: dict[str, str] = {
    "a list": "[]",
    "a text": "hello",
    "cut": "dynamics: {a: ",
    "other bytes": "\0\1",
    "an alias bomb": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
    "merged mappings": "a: &a {x: 1}\nb: {<<: *a}",
    "deep": "a: " + "[" * 5000,
    "an object": "a: !!python/object/apply:os.getcwd []",
    "an interpolated size": "tokenizer: {image_size: '${oc.env:HOME}'}",
    "an interpolated temperature": "dynamics: {sample_temperature: '${oc.env:HOME}'}",
    "a size that is text": "tokenizer: {image_size: big}",
    "a size of 10^30": f"tokenizer: {{image_size: {10**30}}}",
    "a temperature that is NaN": "dynamics: {sample_temperature: .nan}",
    "a flag that is text": "dynamics: {use_token: maybe}",
}


@pytest.mark.parametrize("name", [*YAMLS, "folder", "fifo"])
def test_a_crafted_configuration_next_to_an_original_is_one_line(
    whole: Path, tmp_path: Path, home: str, name: str
) -> None:
    folder = shutil.copytree(whole / "original", tmp_path / "original")
    path = folder / "config.yaml"
    path.unlink(missing_ok=True)
    if name == "folder":
        path.mkdir()
    elif name == "fifo":
        os.mkfifo(path)
    else:
        path.write_text(YAMLS[name])
    with pytest.raises(UserError) as line:
        load_model(folder / "model-1.pt")
    assert "\n" not in str(line.value) and str(path) in str(line.value)
    assert home not in str(line.value).replace(str(path), "")


ORIGINALS: dict[str, Callable[[dict[str, Any]], None]] = {
    "model is text": _set("model", value="x"),
    "model is a list": _set("model", value=[]),
    "model is null": _set("model", value=None),
    "step is null": _set("step", value=None),
    "step is infinite": _set("step", value=float("inf")),
    "dynamics is text": _set("model", "dynamics", value="x"),
    "dynamics is empty": _set("model", "dynamics", value={}),
    "latent actions are a list": _set("model", "latent_action_model", value=[1]),
    **{
        f"a tensor is {value!r}": _set("model", "dynamics", "maskgit.token_emb.weight", value=value)
        for value in (None, 1.0, "x", [])
    },
}


@pytest.mark.parametrize("name", list(ORIGINALS))
def test_a_crafted_original_is_one_line(whole: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(whole / "original", tmp_path / "original")
    path = folder / "model-1.pt"
    content = torch.load(path, weights_only=True)
    ORIGINALS[name](content)
    torch.save(content, path)
    with pytest.raises(UserError) as line:
        load_model(path, facts=OriginalFacts(image_size=16))
    assert "\n" not in str(line.value) and str(path) in str(line.value)


STATES: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"no {key}": _drop(key) for key in ("step", "optimizer", "samples", "meter", "logged_step")},
    **{f"{key} is text": _set(key, value="1") for key in ("step", "optimizer", "samples", "meter", "logged_step")},
    "samples are negative": _set("samples", value=-1),
    "a moment is NaN": _set("optimizer", "state", 0, "exp_avg", value=lambda m: m * float("nan")),
    "a moment is missing": _drop("optimizer", "state", 0, "exp_avg"),
    "a moment has another shape": _set("optimizer", "state", 0, "exp_avg", value=torch.zeros(2)),
    "moments of another model": _set("optimizer", "state", 999, value={}),
    "a mean is text": _set("meter", "sums", "loss", value="1"),
}


@pytest.mark.parametrize("name", list(STATES))
def test_a_crafted_training_state_is_one_line(whole: Path, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(whole / "root", tmp_path / "root")
    cfg = renamed(training_config(root), "run", num_train_steps=3, resume_ckpt="latest")
    path = run_dpath(cfg) / "state-2.pt"
    content = torch.load(path, weights_only=True)
    content["meter"] = {"sums": {"loss": torch.ones(())}, "counts": {"loss": 1}}
    STATES[name](content)
    torch.save(content, path)
    with pytest.raises(UserError) as line:
        train(cfg)
    assert "\n" not in str(line.value) and str(path) in str(line.value)


AGENTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "no info": _drop("info"),
    "format_version is a list": _set("format_version", value=[1]),
    "model is a list": _set("model", value=[]),
    "frames are text": _set("info", "frame_shape", value=["a", 16, 16]),
    "frames as large as memory": _set("info", "frame_shape", value=[3, 2**40, 2**40]),
    "frames are too small": _set("info", "frame_shape", value=[3, 1, 1]),
    "encoder is unknown": _set("info", "encoder", value="big"),
    "encoder is a list": _set("info", "encoder", value=[]),
    "actions are null": _set("info", "action_names", value=None),
    "weight is NaN": _set("model", "to_value.bias", value=torch.tensor([float("nan")])),
    "weight is an integer": _set("model", "to_value.bias", value=torch.tensor([1])),
    "weight has more dimensions": _set("model", "to_value.bias", value=torch.zeros(1, 1, 1)),
}


@pytest.mark.parametrize("name", list(AGENTS))
def test_a_crafted_agent_is_one_line(whole: Path, tmp_path: Path, name: str) -> None:
    content = torch.load(whole / "agent.pt", weights_only=True)
    AGENTS[name](content)
    path = tmp_path / "agent.pt"
    torch.save(content, path)
    with pytest.raises(UserError) as line:
        read_agent(path)
    assert "\n" not in str(line.value) and str(path) in str(line.value)
