"""AutoExplore by command: the agent as a policy of the generator, and what is said of mistakes."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import run
from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate
from models.checkpoint import load_model, save_model
from models.genie_redux import GenieRedux
from tests.auto_explore_helpers import config_file, copy_of, quick_config, run_at, save_world_model
from tests.thread_children import children_in_processes
from tests.toy_game import SIZE, WALK

pytestmark = pytest.mark.usefixtures("environments_in_threads")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    root = tmp_path_factory.mktemp("trained")
    save_world_model(root / "models")
    return run_at(root)


# The agent as a policy of the generator


def generate_config(dpath: Path, checkpoint: Path | str, n_workers: int = 1, **changes: Any) -> GenerateConfig:
    sizes = GeneratorConfig(n_sessions=3, n_steps_max=11, n_workers=n_workers)
    settings = {"image_size": SIZE, "n_skip_frames": 1, "valid_action_combos": [], "game": WALK, **changes}
    connector = ConnectorConfig(name="gymnasium", variant="auto_explore", generator_config=sizes, **settings)
    connector.agent.checkpoint_fpath = str(checkpoint)
    return GenerateConfig(DatasetConfig(connector, data_dpath=str(dpath)))


def test_generate_plays_the_agent_alike_for_any_number_of_workers(trained: Path, tmp_path: Path) -> None:
    made, checkpoint = [], trained / "checkpoints" / "last.pt"
    with children_in_processes():
        generate(generate_config(tmp_path / "1", checkpoint))
    generate(generate_config(tmp_path / "2", checkpoint, n_workers=2))
    for n_workers in (1, 2):
        paths = sorted((tmp_path / str(n_workers)).rglob("*.episode"))
        made.append([path.read_bytes() for path in paths])
    assert made[0] == made[1] and len(made[0]) == 3
    (env_dpath,) = list_environments(tmp_path / "1" / "gymnasium_v0.0.0")
    with Environment(env_dpath).open(0) as episode:
        assert episode.meta.policy_parameters["epoch"] == 2
        assert episode.meta.policy_parameters["checkpoint"] == "last.pt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"valid_action_combos": ["action_0", "action_1"]},
            r"trained on the actions action_0, action_1, action_2, these",
        ),
        ({"n_skip_frames": 4}, r"n_skip_frames=4: .* was trained with 1: .*; set .*n_skip_frames=1"),
        ({"image_size": 32}, r"trained on frames \(3, 16, 16\), these are \(3, 32, 32\); set .*image_size"),
    ],
)
def test_generating_with_an_agent_of_other_actions_or_frames_is_refused(
    trained: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        generate(generate_config(tmp_path, trained / "checkpoints" / "last.pt", **changes))
    assert "\n" not in str(raised.value)


def test_generating_with_something_that_is_no_agent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not really")
    for path, message in (
        (tmp_path / "cut.pt", "cut, or not a checkpoint"),
        (save_world_model(tmp_path), "AutoExplore"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(generate_config(tmp_path / "data", path))


# Mistakes, by command


def command(root: Path, *arguments: str, mode: str = "train") -> list[str]:
    return ["auto_explore", mode, *config_file(root, quick_config(root)), *arguments]


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def _cut_last(root: Path) -> None:
    path = root / "agents" / "001_auto_explore" / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.fixture(scope="module")
def shared_root(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's root with other models next to it."""
    root = copy_of(trained, tmp_path_factory.mktemp("mistakes"))
    (root / "models" / "empty").mkdir()
    save_world_model(root / "others", names=["a", "b", "c"])
    save_world_model(root / "unnamed", names=[])
    loaded = load_model(root / "models" / "demo" / "model-7.pt")
    loaded.config.n_skip_frames = 4
    save_model(root / "slower" / "demo" / "model-7.pt", loaded.model, loaded.config, 7)
    loaded.config.model = "tokenizer"
    assert isinstance(loaded.model, GenieRedux)
    save_model(root / "models" / "tokenizer" / "model-3.pt", loaded.model.tokenizer, loaded.config, 3)
    return root


@pytest.mark.parametrize(
    ("mode", "arguments", "expected"),
    [
        ("train", ["world_model.root_dpath={root}/nothing"], "there is no folder '{root}/nothing/demo'"),
        ("train", ["world_model.model_dname=empty"], "no model-<step>.pt in '{root}/models/empty'"),
        ("train", ["world_model.model_fname=model-9.pt"], "model-9.pt"),
        ("train", ["world_model.model_dname=tokenizer"], "holds a tokenizer, not a world model"),
        ("train", ["world_model.root_dpath={root}/others"], "valid_action_combos=[a,b,c]"),
        ("train", ["world_model.root_dpath={root}/slower"],
         "collection.connector.n_skip_frames=1: the world model was trained with 4"),
        ("train", ["collection.games=[CartPool-v1]"], "collection.games=CartPool-v1"),
        ("train", ["collection.connector.name=retro_act", "collection.games=[Cinderfood-Nes]",
                   "collection.connector.valid_action_combos=[RIGHT,LEFT,UP]", "collection.reward.type=rnd"],
         "collection.games"),
        ("train", ["collection.connector.name=retro_act", "collection.games=[SuperMarioBros-Nes]",
                   "collection.connector.valid_action_combos=[RIGHT,LEFT,UP]", "collection.reward.type=rnd"],
         "ROM"),
        ("train", ["collection.connector.valid_action_combos=[action_0]"], "the environment has 1 (action_0)"),
        ("train", ["common.resume=true", "common.resume_id=9"], "common.resume_id=9: there is no such run"),
        ("train", ["common.resume=true", "common.resume_ckpt_id=2"], "training resumes from 'last' only"),
        ("train", ["common.resume=true", "common.root_dpath={root}/none"], "there is no run; start one"),
        ("eval", ["common.resume_id=9"], "there are 001_auto_explore"),
        ("eval", ["common.resume_ckpt_id=77"], "common.resume_ckpt_id=77: '{root}/agents/001"),
        ("eval", ["collection.connector.valid_action_combos=[action_0,action_2,action_1]",
                  "collection.reward.type=rnd"],
         "was trained on the actions action_0, action_1, action_2"),
        ("eval", ["collection.reward.type=rnd"], "type=rnd: the run was trained with another reward"),
        ("train", ["collection.reward.type=entrpy"], "type=entrpy: is unknown; use one of entropy"),
        ("train", ["training.actor_critic.encoder=resnet"], "encoder=resnet: is unknown; use one of conv, impala"),
        ("train", ["training.actor_critic.burn_in=-1"], "training.actor_critic.burn_in=-1: must be at least 0"),
        ("train", ["training.learning_rate=0"], "training.learning_rate=0"),
        ("train", ["training.actor_critic.gamma=1.5"], "training.actor_critic.gamma=1.5"),
        ("train", ["collection.train.config.n_preds=0"], "n_preds=0"),
        ("train", ["collection.train.config.n_preds=8"], "not n_preds=8"),
        ("train", ["collection.train.config.temperature=0"], "temperature=0"),
        ("train", ["training.actor_critic.batch_nun_samples=3"], "did you mean 'training.actor_critic.batch_num_sam"),
        ("train", ["wandb.mode=sometimes"], "wandb.mode=sometimes"),
        ("train", ["common.device=tpu"], "common.device=tpu"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_helps(
    shared_root: Path, capsys: pytest.CaptureFixture[str], mode: str, arguments: list[str], expected: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in (shared_root / "agents").iterdir())
    filled = [argument.format(root=shared_root) for argument in arguments]
    assert run.main(command(shared_root, *filled, mode=mode)) == 2
    assert expected.format(root=shared_root) in error_line(capsys)
    assert sorted(path.name for path in (shared_root / "agents").iterdir()) == before


def test_a_cut_checkpoint_is_told_in_one_line(trained: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = copy_of(trained, tmp_path)
    _cut_last(root)
    (path,) = root.rglob("last-previous.pt")
    path.write_bytes(b"")
    for arguments in (command(root, mode="eval"), command(root, "common.resume=true")):
        assert run.main(arguments) == 2
        assert "last.pt' cannot be read" in error_line(capsys)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("training.actor_critic.start_after=3", "training.actor_critic.start_after_epochs"),
        ("collection.train.config.episilon=0.2", "collection.train.config.epsilon"),
    ],
)
def test_published_spellings_of_keys_work_with_a_note(tmp_path, capsys, monkeypatch, old: str, new: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main([*command(tmp_path, old), "--cfg", "job"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"note: '{old.partition('=')[0]}' is now called '{new}'\n"
    value = OmegaConf.select(OmegaConf.create(captured.out), new)
    assert value == float(old.partition("=")[2])
