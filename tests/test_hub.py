"""Models and datasets on the hub, against a stand-in on this machine: what is pushed is pulled; errors are one line."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from data_generation.data.data import Environment
from data_generation.data.errors import UserError
from data_generation.data.fields import DatasetName, FolderName, ModelPath, PathText, check_fields
from data_generation.data.hub import HubPlace, fetch_shared, local_path
from models.checkpoint import load_world_model, save_model
from models.tensor_file import digest
from run import main
from tests.episode_helpers import make_environment
from tests.hub_stand_in import StandIn, stand_in
from tests.model_helpers import tiny_config, tiny_model
from tests.training_helpers import write_dataset


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with stand_in(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_model(tmp_path / "run" / "model-7.pt", tiny_model(), tiny_config(), 7)
    return tmp_path / "run" / "model-7.pt"


def command(*words: object) -> int:
    return main([str(word) for word in words])


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a failing command."""
    capsys.readouterr()
    assert command(*words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def write_evaluation(root: Path, checkpoint: Path) -> None:
    folder = root / "genie_redux_guided" / "toy" / "replicate"
    folder.mkdir(parents=True)
    (folder / "strips.png").write_bytes(b"picture")
    content = {"checkpoint": str(checkpoint), "step": 7, "dataset": "toy", "mode": "replicate", "num_clips": 8}
    content["weights"] = digest(checkpoint)
    content["notes"] = ["of 3 of 8 clips"]
    (folder / "metrics.json").write_text(json.dumps({**content, "metrics": {"psnr": 31.25, "fid": 12.5}}))


def test_export_needs_no_network_and_writes_a_card_with_figures_and_pictures(tmp_path, checkpoint):
    write_evaluation(tmp_path / "evaluations", checkpoint)
    words = ("model", "export", checkpoint, "--to", tmp_path / "shared", "--evaluations", tmp_path / "evaluations")
    assert command(*words) == 0
    card = (tmp_path / "shared" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: genie-redux\n")
    assert "| prediction: PSNR [dB] | 31.25 |" in card and "| FID | 12.5 |" in card
    assert "\n- of 3 of 8 clips\n" in card
    assert "ACTION_JUMP" in card and "replicate on 8 clips of toy" in card
    assert (tmp_path / "shared" / "images" / "0-strips.png").read_bytes() == b"picture"
    loaded, right = load_world_model(tmp_path / "shared").model.state_dict(), tiny_model().state_dict()
    assert all(torch.equal(loaded[key], right[key]) for key in right)
    # An older export is replaced, other folders are not.
    assert command(*words) == 0
    assert command("model", "export", checkpoint, "--to", checkpoint.parent) == 2


@pytest.mark.parametrize("change", ["weights", "step"])
def test_figures_of_a_model_that_lay_at_the_path_before_are_not_on_the_card(tmp_path, checkpoint, caplog, change):
    write_evaluation(tmp_path / "evaluations", checkpoint)
    (metrics,) = tmp_path.rglob("metrics.json")
    if change == "weights":
        save_model(checkpoint, tiny_model(seed=1), tiny_config(), 7)
    else:
        # Of an earlier version.
        content = json.loads(metrics.read_text())
        del content["weights"]
        metrics.write_text(json.dumps({**content, "step": 6}))
    words = ("model", "export", checkpoint, "--to", tmp_path / "shared", "--evaluations", tmp_path / "evaluations")
    assert command(*words) == 0
    assert "31.25" not in (tmp_path / "shared" / "README.md").read_text()
    assert "is of other weights: not on the card; evaluate again" in caplog.text


def test_a_folder_of_evaluations_that_is_not_there_is_said(tmp_path, checkpoint, capsys):
    odd, shared = tmp_path / "odd", tmp_path / "shared"
    line = error_of(capsys, "model", "export", checkpoint, "--to", shared, "--evaluations", odd)
    assert f"--evaluations={odd}: is not a folder" in line
    assert not shared.exists()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["notes.txt", ".git/HEAD", "images/mine.png", "images/0-thesis.png"])
def test_an_export_into_a_folder_with_something_else_changes_nothing(tmp_path, checkpoint, capsys, name):
    write_evaluation(tmp_path / "evaluations", checkpoint)
    shared = tmp_path / "shared"
    words = ("model", "export", checkpoint, "--to", shared, "--evaluations", tmp_path / "evaluations")
    assert command(*words) == 0
    (shared / name).parent.mkdir(exist_ok=True)
    (shared / name).write_text("years of work")
    before = snapshot(shared)
    assert command(*words) == 2
    assert f"holds '{name}'" in capsys.readouterr().err
    assert snapshot(shared) == before


@pytest.mark.parametrize("config", ['{"architectures": ["Llama"]}', '{"format": "genieredux-agent57"}', "[]", "{"])
def test_another_programs_config_json_is_no_model_to_replace(tmp_path, checkpoint, capsys, config):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "config.json").write_text(config)
    assert command("model", "export", checkpoint, "--to", tmp_path / "shared") == 2
    assert "exists and holds no model" in capsys.readouterr().err
    assert snapshot(tmp_path / "shared") == {"config.json": config.encode()}


def test_a_model_that_is_exported_onto_itself_keeps_its_card_and_pictures(tmp_path, checkpoint, capsys):
    write_evaluation(tmp_path / "evaluations", checkpoint)
    shared = tmp_path / "shared"
    command("model", "export", checkpoint, "--to", shared, "--evaluations", tmp_path / "evaluations")
    (shared / "README.md").write_text("My own words.")
    before = snapshot(shared)
    (tmp_path / "link").symlink_to(shared)
    for model, target in ((shared, shared), (shared / "model.safetensors", shared), (tmp_path / "link", shared)):
        assert command("model", "export", model, "--to", target) == 2
        assert "is the folder of the model itself" in capsys.readouterr().err
    assert snapshot(shared) == before and "images/0-strips.png" in before


def test_a_pushed_model_is_pulled_and_used_by_its_name(tmp_path, hub, checkpoint, capsys):
    assert command("model", "push", checkpoint, "--to", "hf://me/demo") == 0
    assert set(hub.repositories["models/me/demo"]) == {"README.md", "config.json", "model.safetensors"}
    assert command("model", "pull", "hf://me/demo", "--to", tmp_path / "pulled") == 0
    assert "genie_redux_guided of step 7" in capsys.readouterr().out
    right = tiny_model().state_dict()
    for path in (tmp_path / "pulled", local_path("model_fpath", "hf://me/demo@main", "model")):
        loaded = load_world_model(path).model.state_dict()
        assert all(torch.equal(loaded[key], right[key]) for key in right)


def test_a_completed_card_is_pushed_as_it_is(tmp_path, hub, checkpoint):
    command("model", "export", checkpoint, "--to", tmp_path / "shared")
    (tmp_path / "shared" / "README.md").write_text("My own words.")
    assert command("model", "push", tmp_path / "shared", "--to", "hf://me/demo") == 0
    assert hub.repositories["models/me/demo"]["README.md"] == b"My own words."


def test_a_card_that_was_completed_on_the_hub_stays(tmp_path, hub, checkpoint):
    dataset = make_environment(tmp_path / "games" / "pong", 1).parent
    for command_name, path, repository in (("model", checkpoint, "models/me/x"), ("data", dataset, "datasets/me/x")):
        assert command(command_name, "push", path, "--to", "hf://me/x") == 0
        hub.repositories[repository]["README.md"] = b"My own words."
        assert command(command_name, "push", path, "--to", "hf://me/x") == 0
        assert hub.repositories[repository]["README.md"] == b"My own words."
    # Unless there is one here, too.
    (dataset / "README.md").write_text("Newer words.")
    assert command("data", "push", dataset, "--to", "hf://me/x") == 0
    assert hub.repositories["datasets/me/x"]["README.md"] == b"Newer words."


def test_what_was_fetched_once_needs_no_network(monkeypatch, hub, checkpoint, capsys):
    command("model", "push", checkpoint, "--to", "hf://me/demo")
    folder = local_path("model_fpath", "hf://me/demo", "model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert local_path("model_fpath", "hf://me/demo", "model") == folder
    with pytest.raises(UserError, match=r"^model_fpath=hf://me/other: the hub cannot be reached"):
        local_path("model_fpath", "hf://me/other", "model")
    assert not hub.requests
    assert "cannot be reached" in error_of(capsys, "model", "push", checkpoint, "--to", "hf://me/demo")


def test_checkpoints_of_training_runs_on_the_hub_are_named_by_their_file(hub, checkpoint):
    files = {path.name: path.read_bytes() for path in checkpoint.parent.iterdir()}
    hub.repositories["models/me/run"] = files
    path = local_path("model_fpath", "hf://me/run/model-7.pt", "model")
    assert load_world_model(path).step == 7


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hf://me", "is not of the form hf://<owner>/<name>"),
        ("hf://me/a--b..c", "is not a valid name of a repository"),
        ("hf://me/none", "there is no such model on the hub, or it is private"),
        ("hf://me/empty", "has no model.safetensors"),
        ("hf://me/empty@v2", "has no revision 'v2'"),
        ("hf://me/empty/model-1.pt", "has no model-1.pt"),
    ],
)
def test_a_wrong_place_is_one_line_with_its_key(hub, text, problem):
    hub.repositories["models/me/empty"] = {"README.md": b"nothing"}
    with pytest.raises(UserError) as line:
        local_path("model_fpath", text, "model")
    assert str(line.value).startswith(f"model_fpath={text}: {problem}") and "\n" not in str(line.value)


@pytest.mark.parametrize(("status", "problem"), [(401, "refuses it"), (403, "refuses it")])
def test_what_the_hub_refuses_is_one_line(hub: StandIn, status, problem):
    hub.status = status
    with pytest.raises(UserError, match=rf"^model_fpath=hf://me/x: .*{problem}.*HF_TOKEN"):
        local_path("model_fpath", "hf://me/x", "model")


def test_no_token_is_one_line(monkeypatch, tmp_path, hub, checkpoint, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    line = error_of(capsys, "model", "push", checkpoint, "--to", "hf://me/demo")
    assert line.startswith("error: --to=hf://me/demo: nothing can be uploaded without a token; set HF_TOKEN")
    assert not hub.repositories


# ---- datasets and keys ----------------------------------------------------------------------------------------------


@dataclass
class Data:
    dataset_root_dpath: PathText = "."
    dataset_name: DatasetName = ""


@dataclass
class Config:
    data: Data = field(default_factory=Data)
    model_fpath: ModelPath | None = None
    name: FolderName = ""


def test_a_pushed_dataset_is_pulled_and_used_by_its_name(tmp_path, hub, capsys):
    source = write_dataset(tmp_path / "root", sessions=3) or tmp_path / "root"
    (dataset,) = [path for path in Path(source).iterdir() if path.is_dir()]
    assert command("data", "push", dataset, "--to", "hf://me/games") == 0
    files = hub.repositories["datasets/me/games"]
    assert not any("index.bin" in name for name in files)
    assert b"3 episodes" in files["README.md"]
    assert command("data", "pull", "hf://me/games", "--to", tmp_path / "pulled") == 0
    assert command("data", "check", "hf://me/games") == 0
    assert command("data", "sample", "hf://me/games", "--episodes", 2, "--to", tmp_path / "some") == 0
    assert command("data", "check", tmp_path / "some") == 0
    assert "all good" in capsys.readouterr().out
    for words in (("stats", "hf://me/games"), ("merge", "hf://me/games", dataset, "--to", tmp_path / "both")):
        assert command("data", *words) == 0
    config = Config(Data(str(tmp_path / "datasets"), "hf://me/games"))
    check_fields(config)
    fetch_shared(config)
    assert config.data.dataset_name == "me--games"
    (ours,), (theirs,) = ([p.parent for p in root.rglob("info.json")] for root in (dataset, tmp_path / "datasets"))
    with Environment(ours).open(0) as one, Environment(theirs).open(0) as other:
        np.testing.assert_array_equal(one.frames(), other.frames())


def test_what_is_made_of_a_dataset_on_the_hub_is_called_as_there(tmp_path, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    game = make_environment(tmp_path / "games" / "pong", 3)
    for source, name in ((game.parent, "games"), (game, "pong")):
        assert command("data", "push", source, "--to", f"hf://me/{name}") == 0
        assert command("data", "split", f"hf://me/{name}", "--to", tmp_path / "parts" / name, "--parts", 1) == 0
        assert command("data", "view", f"hf://me/{name}") == 0
        assert command("data", "merge", f"hf://me/{name}", "--to", tmp_path / "merged" / name) == 0
    assert (tmp_path / "parts/games/me--games_part0/pong").is_dir()
    assert (tmp_path / "parts/pong/me--pong_part0/me--pong").is_dir()
    assert (tmp_path / "merged/pong/me--pong").is_dir()
    assert {path.name for path in (tmp_path / "outputs/data").iterdir()} == {"me--games.png", "me--pong.png"}


def test_keys_that_take_models_take_places_on_the_hub(hub, checkpoint):
    command("model", "push", checkpoint, "--to", "hf://me/demo")
    config = Config(model_fpath="hf://me/demo")
    check_fields(config)
    fetch_shared(config)
    assert load_world_model(Path(config.model_fpath)).step == 7


def test_a_command_downloads_what_its_keys_name(tmp_path, hub, capsys):
    hub.repositories["models/me/empty"] = {"README.md": b"nothing"}
    line = error_of(capsys, "genie_redux", "import", "source=hf://me/empty/model-1.pt", f"target={tmp_path / 'new'}")
    assert line.startswith("error: source=hf://me/empty/model-1.pt: has no model-1.pt")


def test_keys_that_take_only_paths_say_so():
    with pytest.raises(UserError, match=r"^data\.dataset_root_dpath=hf://me/x: is a place on the model hub"):
        check_fields(Config(Data(dataset_root_dpath="hf://me/x")))


def test_a_dataset_in_another_format_says_how_to_import_it(tmp_path, hub, capsys):
    hub.repositories["datasets/me/other"] = {"data/file.parquet": b"PAR1"}
    assert "then import it (data import)" in error_of(capsys, "data", "info", "hf://me/other")
    assert command("data", "pull", "hf://me/other", "--to", tmp_path / "pulled") == 0
    assert "data import" in capsys.readouterr().out


def test_a_place_says_what_its_copy_is_called():
    assert HubPlace.parse("x", "hf://me/games@v2", "dataset").folder_name == "me--games@v2"
