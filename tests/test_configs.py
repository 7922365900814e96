"""Every shipped YAML file composes to its dataclasses."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

import run
from auto_explore.config import AutoExploreConfig
from data_generation.config import GenerateConfig
from external.agent57.config import Agent57Config, Agent57TrainingConfig
from external.agent57.setup import check_training
from launcher.commands import COMMANDS, Command
from launcher.job import to_dataclasses
from launcher.keys import comments_of, keys_of
from launcher.session import open_session
from models.config import DynamicsConfig, SuperResolutionConfig
from training.config import GenieReduxConfig

GENERATE, TRAIN = COMMANDS[0], COMMANDS[1]
EXPLORE, EXPLORE_EVAL = (command for command in COMMANDS if command.name == "auto_explore")
ENLARGE, _ = (command for command in COMMANDS if command.name == "super_resolution")
AGENT57, AGENT57_EVAL = (command for command in COMMANDS if command.name == "agent57")
SIZE_GROUPS = ("tokenizer", "lam", "dynamics")


def names_in(folder: Path) -> list[str]:
    return [str(path.relative_to(folder).with_suffix("")) for path in sorted(folder.rglob("*.yaml"))]


@functools.cache
def composed(command: Command, *overrides: str):
    """Its configuration, which no test changes."""
    with open_session(command) as session:
        return to_dataclasses(session.compose(overrides)[0])


@pytest.mark.parametrize("preset", names_in(TRAIN.config_dpath / "config"))
def test_genie_redux_preset_composes(preset):
    config = composed(TRAIN, f"config={preset}")
    assert isinstance(config, GenieReduxConfig)
    assert config.train.dataset_name
    assert config.eval.dataset_name
    names = {"lam": "lam", "demo_lam": "lam", "genie_redux": "genie_redux"}
    expected = "tokenizer" if "tokenizer" in preset else names.get(preset, "genie_redux_guided")
    assert config.model == expected


@pytest.mark.parametrize("preset", names_in(ENLARGE.config_dpath / "config"))
@pytest.mark.parametrize("size", names_in(ENLARGE.config_dpath / "super_resolution"))
def test_super_resolution_preset_composes(preset, size):
    config = composed(ENLARGE, f"config={preset}", f"super_resolution={size}")
    assert config.model == "super_resolution"
    assert (config.super_resolution == SuperResolutionConfig()) is (size == "base")
    assert config.train.dataset_name.endswith(f"_{config.super_resolution.image_size}")


@pytest.mark.parametrize("preset", names_in(GENERATE.config_dpath / "config"))
def test_generate_preset_composes(preset):
    config = composed(GENERATE, f"config={preset}")
    assert isinstance(config, GenerateConfig)
    assert config.config.connector.name == preset.partition("/")[0]


@pytest.mark.parametrize("preset", names_in(EXPLORE.config_dpath / "config"))
def test_auto_explore_preset_composes(preset):
    config = composed(EXPLORE, f"config={preset}")
    assert isinstance(config, AutoExploreConfig)
    assert config.training.should
    evaluation = composed(EXPLORE_EVAL, f"config={preset}")
    assert not evaluation.training.should
    assert (evaluation.common.epochs, evaluation.collection.test.config.num_episodes) == (20, 1)


@pytest.mark.parametrize("preset", names_in(AGENT57.config_dpath / "config"))
def test_agent57_preset_composes(preset):
    config = composed(AGENT57, f"config={preset}")
    assert isinstance(config, Agent57Config)
    check_training(config.collection, config.training)
    # The default is the papers' agent, in the sizes of published checkpoints.
    assert (config.training == Agent57TrainingConfig()) is (preset == "full")
    assert composed(AGENT57_EVAL, f"config={preset}").common.epochs == 5
    assert composed(AGENT57).training == Agent57TrainingConfig()


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in SIZE_GROUPS for name in names_in(TRAIN.config_dpath / group)]
)
def test_size_composes(choice):
    """A size changes its own part of the model, and nothing else."""
    group = choice.partition("=")[0]
    config, default = composed(TRAIN, choice), composed(TRAIN)
    if choice.endswith("=base"):
        assert getattr(config, group) == type(getattr(config, group))()
    else:
        assert getattr(config, group) != getattr(default, group)
    assert dataclasses.replace(config, **{group: getattr(default, group)}) == default


def test_recipes_differ_from_the_published_one_that_holds_by_default():
    assert composed(TRAIN, "recipe=published") == composed(TRAIN)

    def recipe(*overrides: str) -> tuple[Any, ...]:
        config = composed(TRAIN, *overrides)
        sampling = (config.dynamics.unmask_order, config.dynamics.history_tokens, config.eval.inference_steps)
        loss = (config.dynamics.loss, config.dynamics.history.changed_weight)
        structure = (config.dynamics.action_conditioning, config.dynamics.temporal_every)
        dynamics = (config.dynamics.history, *loss, *structure, *sampling)
        lam = (config.lam.predict_change, config.lam.assignment, config.lam.change_floor, config.lam.persistence)
        return (config.tokenizer.temporal, *lam, *dynamics, config.optimizer.name, config.optimizer.schedule)

    tuned, published = recipe("recipe=tuned"), recipe()
    assert all(ours != theirs for ours, theirs in zip(tuned, published, strict=True))
    assert recipe("config=demo") == recipe("config=demo_tokenizer") == recipe("config=exploration") == tuned
    assert recipe("config=demo", "recipe=published") == published


def test_every_yaml_is_a_preset_a_size_a_recipe_or_the_root():
    names = ("genie_redux", "super_resolution")
    known = {command.config_dpath / "default.yaml" for command in COMMANDS if command.name in names}
    for group in ("config", "super_resolution"):
        folder = ENLARGE.config_dpath / group
        known |= {folder / f"{name}.yaml" for name in names_in(folder)}
    for group in ("config", "recipe", *SIZE_GROUPS):
        known |= {TRAIN.config_dpath / group / f"{name}.yaml" for name in names_in(TRAIN.config_dpath / group)}
    # For `accelerate launch`; not Hydra's.
    known |= set((TRAIN.config_dpath / "accelerate").glob("*.yaml"))
    assert set(TRAIN.config_dpath.rglob("*.*")) == known


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.title)
def test_the_first_comment_line_of_a_preset_which_help_shows_is_a_whole_sentence(command):
    for path in [*(command.config_dpath / "config").rglob("*.yaml"), *(command.config_dpath / "recipe").glob("*.yaml")]:
        comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        first = next(comment for comment in comments if not comment.startswith("@package"))
        assert first.endswith("."), f"{path}: {first}"


def test_presets_of_the_published_commands_exist():
    assert {
        "tokenizer", "genie_redux", "genie_redux_guided", "genie_redux_guided_pretrain", "genie_redux_guided_50",
        "tokenizer_ft_smb", "tokenizer_ft_ai2", "genie_redux_guided_ft_smb", "genie_redux_guided_ft_ai2", "demo",
    } <= set(names_in(TRAIN.config_dpath / "config"))  # fmt: skip


def test_fine_tuning_presets_refuse_to_start_from_nothing():
    presets = names_in(TRAIN.config_dpath / "config")
    assert [p for p in presets if composed(TRAIN, f"config={p}").train.fine_tune] == [p for p in presets if "_ft_" in p]


def test_training_presets_use_the_datasets_that_generation_makes():
    made = set()
    for preset in names_in(GENERATE.config_dpath / "config"):
        config = composed(GENERATE, f"config={preset}").config
        name = f"{config.connector.name}_v{config.connector.version}"
        made.add(f"{name}_{config.dname}" if config.dname else name)
    presets = [(c, preset) for c in (TRAIN, ENLARGE) for preset in names_in(c.config_dpath / "config")]
    for command, preset in presets:
        config = composed(command, f"config={preset}")
        for name in (config.train.dataset_name, config.eval.dataset_name):
            assert name in made, f"{preset}: no generate preset makes {name}"


def test_a_preset_states_no_default_again():
    """The dataclasses are the home of the defaults: a preset without a parent says only what differs."""
    default = dataclasses.asdict(GenieReduxConfig())
    for path in (TRAIN.config_dpath / "config").glob("*.yaml"):
        preset = yaml.safe_load(path.read_text())
        if not any(isinstance(entry, str) and entry != "_self_" for entry in preset.pop("defaults", [])):
            assert not list(_same_leaves(preset, default, "")), path.name


def _same_leaves(values, defaults, prefix):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _same_leaves(value, defaults[key], f"{prefix}{key}.")
        elif value == defaults[key]:
            yield prefix + key


def test_a_typo_in_a_preset_names_file_and_nearest_key(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mine.yaml").write_text("# @package _global_\ntrain:\n  batchsize: 3\n")
    with open_session(TRAIN, extra_dpath=str(tmp_path)) as session, pytest.raises(ValueError) as caught:
        session.compose(["config=mine"])
    assert "config/mine.yaml" in str(caught.value)
    assert "'train.batch_size'" in str(caught.value)


def test_a_preset_of_the_users_own(tmp_path, capsys):
    """The example of docs/reference/configuration.md."""
    text = (TRAIN.config_dpath.parent / "docs" / "reference" / "configuration.md").read_text()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mine.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    assert run.main(["genie_redux", "train", f"--config-dir={tmp_path}", "config=mine", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mine What it is for: this line appears in --help." in shown
    assert "train.dataset_name my_dataset" in shown
    assert "dynamics.dim 256" in shown


@pytest.mark.parametrize("schema", [GenieReduxConfig, GenerateConfig])
def test_keys_are_those_of_the_composed_configuration(schema):
    command = TRAIN if schema is GenieReduxConfig else GENERATE
    with open_session(command) as session:
        cfg, _ = session.compose([])
    for name, key in keys_of(schema).items():
        value = cfg
        for part in name.split("."):
            assert part in value, name
            value = value[part]
        assert key.is_group == dataclasses.is_dataclass(key.type)


def test_comments_above_and_next_to_a_field_are_its_documentation():
    docs = comments_of(GenieReduxConfig)
    assert docs["device"].startswith("auto | cpu")
    assert comments_of(DynamicsConfig)["min_mask_rate"].startswith("Mask rate of training inputs")
    assert comments_of(DynamicsConfig)["gradient_checkpointing"].startswith("Recompute")  # inherited
