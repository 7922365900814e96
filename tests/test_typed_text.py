"""A key whose type is text takes what was typed."""

from operator import attrgetter

import pytest

import run
from tests.launcher_helpers import EVAL, TRAIN, error_line

LOOK_LIKE_SOMETHING_ELSE = (
    "2024_01_15", "1e-3", "0x10", "007", "true", "False", ".5", "5.", "1:30", "nan", "inf", "-1", "1_000", "10", "1E5",
    "[1,2]", "{a:1}", "yes", "no", "on", "0b1", "1.0.0",
)  # fmt: skip
GENERATE = ["generate"]


TEXT_KEYS = {
    "train": ["train.wandb_project", "--train.dataset_name", "tokenizer_fpath", "eval.dataset_name"],
    "eval": ["eval.model_fpath", "tokenizer_fpath", "lam_fpath", "--eval.dataset_name"],
    "generate": [
        "config.connector.agent.policy", "++config.connector.variant", "config.connector.rom_dpath",
        "--config.connector.annotation_control_fpath",
    ],
}  # fmt: skip
COMMANDS = {"train": TRAIN, "eval": EVAL, "generate": GENERATE}


@pytest.mark.parametrize("first", range(0, len(LOOK_LIKE_SOMETHING_ELSE), 4))
@pytest.mark.parametrize("command", COMMANDS)
def test_text_that_looks_like_a_number_stays_text(entries, command, first):
    texts = dict(zip(TEXT_KEYS[command], LOOK_LIKE_SOMETHING_ELSE[first : first + 4], strict=False))
    assert run.main([*COMMANDS[command], *(f"{key}={text}" for key, text in texts.items())]) == 0
    for key, text in texts.items():
        assert attrgetter(key.lstrip("-+"))(entries.configs[0]) == text, key


def test_null_is_nothing_where_there_may_be_nothing_and_else_a_text(entries):
    assert run.main([*EVAL, "eval.model_fpath=null"]) == 0
    assert run.main([*GENERATE, "config.dname=null", "config.connector.rom_dpath=null"]) == 0
    evaluation, generation = entries.configs
    assert evaluation.eval.model_fpath is None
    assert (generation.config.dname, generation.config.connector.rom_dpath) == ("null", None)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("config.connector.game=2048", "2048"),
        ("config.connector.game=1e3", "1e3"),
        ("config.connector.game=[2048,1_000, true ,a]", ["2048", "1_000", "true", "a"]),
        ("config.connector.view=null", None),
        ("config.connector.genre=[1,2]", ["1", "2"]),
        ("config.connector.agent.script=[1,'2*3',x]", ["1", "2*3", "x"]),
        ("config.connector.valid_action_combos=[1,on,1:30]", ["1", "on", "1:30"]),
    ],
)
def test_games_and_lists_of_text_stay_text(entries, argument, expected):
    assert run.main([*GENERATE, argument]) == 0
    assert attrgetter(argument.partition("=")[0])(entries.configs[0]) == expected


def test_values_of_a_mapping_of_text_stay_text(entries):
    arguments = ["config.connector.action_map={UP: 1, DOWN: 007}", "config.connector.action_map.LEFT=1e-3"]
    assert run.main([*GENERATE, *arguments]) == 0
    action_map = entries.configs[0].config.connector.action_map
    assert (action_map["UP"], action_map["DOWN"], action_map["LEFT"]) == ("1", "007", "1e-3")


def test_each_value_of_a_sweep_is_text(entries):
    assert run.main([*TRAIN, "-m", "train.wandb_name=2024_01,1e-3,true", "hydra.sweep.dir=sweep"]) == 0
    assert run.main([*TRAIN, "-m", "train.dataset_name=choice(1_0,.5)", "hydra.sweep.dir=sweep"]) == 0
    assert [config.train.wandb_name for config in entries.configs[:3]] == ["2024_01", "1e-3", "true"]
    assert [config.train.dataset_name for config in entries.configs[3:]] == ["1_0", ".5"]


def test_interpolations_and_quotes_stay_hydras(entries, monkeypatch):
    monkeypatch.setenv("RUN_NAME", "from-outside")
    arguments = ["train.wandb_name=${oc.env:RUN_NAME}", "train.dataset_name=d_${seed}", "eval.dataset_name='a,b'"]
    assert run.main([*TRAIN, *arguments, "seed=3"]) == 0
    config = entries.configs[0]
    assert (config.train.wandb_name, config.train.dataset_name) == ("from-outside", "d_3")
    assert config.eval.dataset_name == "a,b"


@pytest.mark.parametrize("argument", ["train.batch_size='2'", "train.batch_size=2.5", "seed=true"])
def test_numbers_stay_numbers(entries, argument):
    code = run.main([*TRAIN, argument])
    assert code == (0 if "'" in argument else 2)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ([*GENERATE, "config.dname=a/b"], "config.dname=a/b"),
        ([*GENERATE, "config.dname=.hidden"], "config.dname=.hidden"),
        ([*GENERATE, "config.connector.version=../x"], "config.connector.version=../x"),
        ([*TRAIN, "train.wandb_name=" + "x" * 300], "train.wandb_name="),
        ([*TRAIN, "train.wandb_name=.."], "train.wandb_name=.."),
        (["auto_explore", "train", "common.name=a/b"], "common.name=a/b"),
    ],
)
def test_a_name_that_makes_no_folder_is_one_line(entries, capsys, arguments, key):
    assert run.main(arguments) == 2
    assert key in error_line(capsys)
    assert not entries.configs
