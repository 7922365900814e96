"""A key whose type is text takes what was typed."""

import pytest

import run
from tests.launcher_helpers import EVAL, TRAIN, error_line

LOOK_LIKE_SOMETHING_ELSE = (
    "2024_01_15", "1e-3", "0x10", "007", "true", "False", ".5", "5.", "1:30", "nan", "inf", "-1", "1_000", "10", "1E5",
    "[1,2]", "{a:1}", "yes", "no", "on", "0b1", "1.0.0",
)  # fmt: skip
GENERATE = ["generate"]


@pytest.mark.parametrize("text", LOOK_LIKE_SOMETHING_ELSE)
def test_text_that_looks_like_a_number_stays_text(entries, text):
    assert run.main([*TRAIN, f"train.wandb_project={text}", f"--train.dataset_name={text}"]) == 0
    assert run.main([*GENERATE, f"config.connector.agent.policy={text}", f"++config.connector.variant={text}"]) == 0
    assert run.main([*EVAL, f"eval.model_fpath={text}"]) == 0
    training, generation, evaluation = entries.configs
    assert (training.train.wandb_project, training.train.dataset_name) == (text, text)
    assert (generation.config.connector.agent.policy, generation.config.connector.variant) == (text, text)
    assert evaluation.eval.model_fpath == text


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
    value = entries.configs[0]
    for name in argument.partition("=")[0].split("."):
        value = getattr(value, name)
    assert value == expected


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
