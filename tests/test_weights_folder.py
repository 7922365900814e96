"""Models as folders of model.safetensors and config.json: the same model, or one line."""

import json
from pathlib import Path

import pytest
import torch

from data_generation.data.errors import UserError
from models.checkpoint import export_model, load_model, load_tokenizer, load_world_model, read_lam, save_model
from models.tensor_file import digest
from tests.fault_helpers import spoilt_copies
from tests.model_helpers import tiny_config, tiny_model


def exported(folder: Path, name: str = "genie_redux_guided", seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    export_model(folder, tiny_model(name, seed), tiny_config(name), 7)
    return folder


@pytest.mark.parametrize("name", ["tokenizer", "lam", "genie_redux", "genie_redux_guided"])
def test_an_exported_model_is_the_same(tmp_path, name):
    folder, model = exported(tmp_path / "shared", name), tiny_model(name)
    for path in (folder, folder / "model.safetensors"):
        loaded = load_model(path)
        assert (loaded.step, loaded.config) == (7, tiny_config(name))
        state = loaded.model.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_another_tokenizer_takes_the_place_of_the_one_in_the_weights(tmp_path):
    folder, other = exported(tmp_path / "shared"), exported(tmp_path / "tokenizer", "tokenizer", seed=5)
    loaded = load_world_model(folder, tokenizer_path=other)
    for key, value in load_tokenizer(other).state_dict().items():
        assert torch.equal(loaded.model.tokenizer.state_dict()[key], value)


def test_the_latent_action_model_of_an_exported_world_model_is_found(tmp_path):
    lam = read_lam(exported(tmp_path / "shared", "genie_redux")).build()
    assert all(torch.equal(lam.state_dict()[k], v) for k, v in tiny_model("genie_redux").lam.state_dict().items())


def test_a_digest_tells_the_weights_wherever_they_are(tmp_path):
    one, same, other = (exported(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert digest(one) == digest(same / "model.safetensors") != digest(other)
    assert digest(one) is not None and digest(tmp_path) is None


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_byte_that_is_wrong_is_noticed(tmp_path, name):
    folder = exported(tmp_path / "shared", "tokenizer")
    path, right = folder / name, tiny_model("tokenizer").state_dict()
    for spoilt in spoilt_copies(path.read_bytes(), name):
        path.write_bytes(spoilt)
        try:
            found, line = load_model(folder).model.state_dict(), ""
        except UserError as error:
            found, line = {}, str(error)
        # White space between the values of a JSON file may change.
        assert all(torch.equal(found[key], right[key]) for key in right) if found else str(path) in line, line
        assert "\n" not in line


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "of another model", "text"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_another_kind_is_one_line(tmp_path, name, kind):
    path = exported(tmp_path / "shared") / name
    content = (exported(tmp_path / "other", "tokenizer") / name).read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"hello", "of another model": content}[kind])
    with pytest.raises(UserError, match="shared") as line:
        load_model(path.parent)
    assert "\n" not in str(line.value)


def test_a_configuration_that_was_changed_is_named(tmp_path):
    path = exported(tmp_path / "shared", "tokenizer") / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values))
    assert load_model(path.parent).step == 7
    path.write_text(json.dumps({**values, "step": 8}))
    with pytest.raises(UserError, match="was changed"):
        load_model(path.parent)


def test_a_folder_of_a_run_names_its_checkpoints(tmp_path):
    save_model(tmp_path / "model-1.pt", tiny_model("tokenizer"), tiny_config("tokenizer"), 1)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; give one of its files: model-1\.pt"):
        load_model(tmp_path)
