"""Checkpoints of models: what is saved is loaded, and errors are one line."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from auto_explore.src.agent import read_agent
from external.agent57.checkpoint import read_agent57
from models.checkpoint import export_model, load_model, load_tokenizer, save_model
from models.construct_model import build_model
from models.provenance import code_commit
from models.tensor_file import write_file
from tests.model_helpers import tiny_config, tiny_model
from training.run_folder import read_state


@pytest.mark.parametrize("name", ["tokenizer", "lam", "genie_redux", "genie_redux_guided"])
def test_saved_and_loaded_gives_the_same_outputs(tmp_path, name):
    model, config = tiny_model(name), tiny_config(name)
    save_model(tmp_path / "model-7.pt", model, config, 7)
    torch.manual_seed(99)
    loaded = load_model(tmp_path / "model-7.pt")
    assert loaded.step == 7
    assert loaded.config == config
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value), key
    assert (tmp_path / "config.yaml").exists()


def test_reloaded_guided_model_keeps_its_action_embeddings(tmp_path):
    model = tiny_model()
    embedding = model.dynamics.action_embedding
    assert embedding.weight.requires_grad
    assert any(p is embedding.weight for p in model.parameters())
    save_model(tmp_path / "model-1.pt", model, tiny_config(), 1)
    loaded = load_model(tmp_path / "model-1.pt").model
    assert torch.equal(loaded.dynamics.action_embedding.weight, embedding.weight)


def test_world_model_without_its_tokenizer_is_an_error(tmp_path):
    save_model(tmp_path / "model-1.pt", tiny_model(), tiny_config(), 1)
    (tmp_path / "tokenizer.pt").unlink()
    with pytest.raises(FileNotFoundError, match="tokenizer_fpath"):
        load_model(tmp_path / "model-1.pt")


def test_checkpoint_errors_are_one_line_and_name_the_file(tmp_path):
    path = tmp_path / "model-1.pt"
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_model(path)
    save_model(path, tiny_model("tokenizer"), tiny_config("tokenizer"), 1)
    with pytest.raises(FileNotFoundError, match=r"the folder has model-1\.pt"):
        load_model(tmp_path / "model-2.pt")
    content = torch.load(path, weights_only=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(path)
    torch.save({"something": 1}, path)
    with pytest.raises(ValueError, match="not a model checkpoint"):
        load_model(path)
    renamed = {f"x.{k}" if k == "quantizer.codebook" else k: v for k, v in content["model"].items()}
    torch.save({**content, "model": renamed}, path)
    with pytest.raises(ValueError, match=r"unknown tensors, first 'x\.quantizer\.codebook'"):
        load_model(path)


READERS = {
    "genieredux-model": (load_model, "a model"),
    "genieredux-agent": (read_agent, "an AutoExplore agent"),
    "genieredux-agent57": (read_agent57, "an Agent57 agent"),
    "genieredux-training-state": (read_state, "the state of a training"),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("reader", READERS)
def test_a_checkpoint_of_another_kind_is_named_with_what_is_wanted(tmp_path, reader, kind):
    path = tmp_path / "model-1.pt"
    write_file(path, kind, 1, {})
    read, (_, found) = READERS[reader][0], READERS[kind]
    with pytest.raises(ValueError, match=r"model-1\.pt") as raised:
        read(path)
    line = str(raised.value)
    assert "\n" not in line
    assert (f"holds {found}, which is not a" in line and "; give a " in line) == (reader != kind)


def test_a_folder_of_checkpoints_lists_those_that_can_be_given(tmp_path):
    for name in ("model-1.pt", "state-1.pt"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"give one of its files: model-1\.pt$"):
        load_model(tmp_path)


def test_a_tokenizer_path_that_is_a_world_model_is_an_error(tmp_path):
    save_model(tmp_path / "model-1.pt", tiny_model(), tiny_config(), 1)
    with pytest.raises(ValueError, match="not a tokenizer"):
        load_tokenizer(tmp_path / "model-1.pt")
    assert isinstance(load_tokenizer(tmp_path / "tokenizer.pt"), nn.Module)


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_world_model_names_a_tokenizer_that_is_not_its_own(tmp_path, caplog, is_folder):
    model, config = tiny_model(), tiny_config()
    if is_folder:
        export_model(tmp_path, model, config, 1)
    else:
        save_model(tmp_path / "model-1.pt", model, config, 1)
    path = tmp_path if is_folder else tmp_path / "model-1.pt"
    own, decoder, other = (tiny_model("tokenizer", seed) for seed in (0, 0, 5))
    own.load_state_dict(model.tokenizer.state_dict())
    decoder.load_state_dict(model.tokenizer.state_dict())
    with torch.no_grad():
        # As after train.train_decoder_only: the ids are the same.
        next(decoder.to_pixels.parameters()).add_(1)
    for tokenizer, is_named in ((own, False), (decoder, False), (other, True)):
        given = tmp_path / "given" / "model-2.pt"
        save_model(given, tokenizer, tiny_config("tokenizer"), 2)
        caplog.clear()
        load_model(path, tokenizer_path=given)
        assert [str(given) in line for line in caplog.messages] == [True] * is_named
    (tmp_path / "tokenizer.pt").write_text("damaged")
    assert load_model(path, tokenizer_path=given).step == 1


@pytest.mark.parametrize(
    ("field", "ours", "theirs"), [("temporal", "both", "none"), ("fsq_levels", [8, 4], [4, 8]), ("channels", 3, 1)]
)
def test_a_tokenizer_whose_codes_are_made_in_another_way_is_refused(tmp_path, field, ours, theirs):
    def config_of(name, value):
        config = tiny_config(name)
        config.tokenizer = replace(config.tokenizer, **{"quantizer": "fsq", "fsq_levels": [8, 4], field: value})
        return config

    config = config_of("genie_redux_guided", ours)
    save_model(tmp_path / "model-1.pt", build_model(config), config, 1)
    config = config_of("tokenizer", theirs)
    save_model(tmp_path / "given" / "model-2.pt", build_model(config), config, 2)
    with pytest.raises(ValueError, match=re.escape(f"was trained with tokenizer.{field}={ours}, the tokenizer given")):
        load_model(tmp_path / "model-1.pt", tokenizer_path=tmp_path / "given" / "model-2.pt")


def test_a_file_never_executes_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"model": Evil(), "optim": {}}, tmp_path / "model-1.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path / "model-1.pt")


def test_a_checkpoint_names_the_commit_that_wrote_it_where_there_is_one(tmp_path, monkeypatch):
    for commit, found in (("0123abcd+changes", "0123abcd+changes"), (None, None)):
        monkeypatch.setattr("models.tensor_file.code_commit", lambda commit=commit: commit)
        save_model(tmp_path / "model-1.pt", tiny_model("tokenizer"), tiny_config("tokenizer"), 1)
        assert torch.load(tmp_path / "model-1.pt", weights_only=True).get("commit") == found
        assert load_model(tmp_path / "model-1.pt").step == 1


def test_the_commit_is_that_of_the_folder_of_the_code(monkeypatch):
    monkeypatch.setattr("models.provenance._TIMEOUT", 600)
    code_commit.cache_clear()
    command = ["git", "-C", str(Path(__file__).parent.parent), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = found.stdout.strip() if found.returncode == 0 else None
    commit = code_commit()
    assert commit == expected or commit == f"{expected}+changes"


def test_the_roi_table_is_read_under_its_old_name(tmp_path):
    path = tmp_path / "model-1.pt"
    config = tiny_config("tokenizer")
    config.roi_table = "heroes.csv"
    save_model(path, tiny_model("tokenizer"), config, 1)
    content = torch.load(path, weights_only=True)
    content["config"]["recorded_around"] = content["config"].pop("roi_table")
    torch.save(content, path)
    assert load_model(path).config.roi_table == "heroes.csv"
