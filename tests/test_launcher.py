"""The command line: what it accepts, and what it says when something is wrong."""

import os
import sys

import pytest

import run
from data_generation.data.errors import UserError
from data_generation.data.invocation import invocation_of
from launcher.commands import COMMANDS
from launcher.keys import nearest, type_words
from launcher.spelling import RENAMED_KEYS, respell
from tests.launcher_helpers import EVAL, TRAIN, error_line
from training.config import GenieReduxConfig

# Spellings


@pytest.mark.parametrize(
    "arguments",
    [
        ["config=tokenizer", "train.batch_size=3"],
        ["config=tokenizer.yaml", "train.batch_size=3"],
        ["--config=tokenizer.json", "--mode=train", "--train.batch_size=3"],
        ["train.batch_size=3", "--run", "config=tokenizer"],
    ],
)
def test_spellings_mean_the_same(entries, arguments):
    assert run.main([*TRAIN, *arguments]) == 0
    (config,) = entries.configs
    assert isinstance(config, GenieReduxConfig)
    assert (config.model, config.train.batch_size, config.train.wandb_name) == ("tokenizer", 3, "tokenizer")


def test_mode_may_be_given_as_an_option_alone(entries):
    assert run.main(["genie_redux", "--config=tokenizer.yaml", "--mode=eval"]) == 0
    assert entries.configs[0].model == "tokenizer"


def test_published_evaluation_command_works_with_a_note(entries, capsys):
    arguments = "--config=genie_redux_guided.yaml --mode=eval --eval.action_to_take=0 --eval.model_path=a/model-1.pt"
    assert run.main([*EVAL, *arguments.split(), "--eval.inference_method=autoregressive"]) == 0
    evaluation = entries.configs[0].eval
    assert (evaluation.action_to_take, evaluation.model_fpath) == (0, "a/model-1.pt")
    assert capsys.readouterr().err == "note: 'eval.model_path' is now called 'eval.model_fpath'\n"


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_old_keys_are_renamed_with_a_note(old):
    overrides, notes = respell([f"--{old}=1"], COMMANDS[0])
    assert overrides == [f"{RENAMED_KEYS[old]}=1"]
    assert len(notes) == 1


def test_suffixes_are_dropped_from_presets_only(entries):
    presets = ["config=tokenizer.yaml,demo.json", "tokenizer=small.yml"]
    assert run.main([*TRAIN, *presets, "tokenizer_fpath=x.yaml", "--multirun"]) == 0
    assert [config.model for config in entries.configs] == ["tokenizer", "genie_redux_guided"]
    assert {config.tokenizer_fpath for config in entries.configs} == {"x.yaml"}


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("no", False), ("true", True), ("False", False)])
def test_yes_and_no_are_booleans(entries, text, value):
    assert run.main([*EVAL, f"eval.eval_control={text}"]) == 0
    assert entries.configs[0].eval.eval_control is value


def test_a_word_like_no_stays_text_in_a_text_key(entries):
    assert run.main([*TRAIN, "train.resume_ckpt=no", "train.wandb_name=007"]) == 0
    assert (entries.configs[0].train.resume_ckpt, entries.configs[0].train.wandb_name) == ("no", "007")


@pytest.mark.parametrize("path", ["../a b/(1)/x=y,z.pt", "./m-1.pt", "it's\\here.pt"])
def test_any_path_is_taken_literally(entries, path):
    assert run.main([*EVAL, f"eval.model_fpath={path}"]) == 0
    assert entries.configs[0].eval.model_fpath == path


def test_the_last_part_of_a_preset_is_enough(entries):
    assert run.main(["generate", "config=control_test.yaml"]) == 0
    assert run.main(["generate", "config=retro_act/control_test"]) == 0
    assert entries.configs[0] == entries.configs[1]
    assert entries.configs[0].config.dname == "g50_test"


def test_tuples_are_tuples(entries):
    assert run.main([*TRAIN, "optimizer.betas=[0.8,0.95]"]) == 0
    assert entries.configs[0].optimizer.betas == (0.8, 0.95)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([*TRAIN, "train.batchsize=4"], "unknown key 'train.batchsize': did you mean 'train.batch_size'?"),
        ([*TRAIN, "trian.batch_size=4"], "did you mean 'train.batch_size'?"),
        ([*TRAIN, "batch_size=4"], "did you mean 'train.batch_size'?"),
        ([*EVAL, "batch_size=4"], "did you mean 'eval.batch_size'?"),
        ([*TRAIN, "--num_processes=2"], "did you mean 'train.num_processes'?"),
        ([*TRAIN, "+train.batch_sise=4"], "did you mean 'train.batch_size'?"),
        ([*TRAIN, "qqq=4"], "unknown key 'qqq'"),
        (["generate", "config.connector.n_workers=4"], "did you mean 'config.connector.generator_config.n_workers'?"),
        ([*TRAIN, "config=tokeniser"], "config=tokeniser: there is no such preset: did you mean 'tokenizer'?"),
        ([*TRAIN, "tokenizer=smal"], "did you mean 'small'?"),
        (["generate", "config=retro_act/contrl"], "did you mean 'retro_act/control'?"),
        ([*TRAIN, "-m", "config=demo,tokeniser"], "did you mean 'tokenizer'?"),
        ([*TRAIN, "train.batch_size=four"], "train.batch_size=four: expected a whole number"),
        ([*TRAIN, "-m", "train.batch_size=2,four"], "train.batch_size=four: expected a whole number"),
        ([*TRAIN, "train.batch_size=null"], "train.batch_size=null: expected a whole number"),
        ([*TRAIN, "optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: expected a list of 2 values"),
        ([*TRAIN, "train=3"], "train=3: expected one of the keys below it"),
        ([*TRAIN, "compile=2"], "compile=2: expected true or false"),
        ([*TRAIN, "train.enable_cache=0.5"], "train.enable_cache=0.5: expected true or false"),
        ([*TRAIN, "config=null"], "config=null: expected the name of a preset: "),
        ([*TRAIN, "tokenizer=[1]"], "tokenizer=[1]: expected the name of a preset: "),
        ([*TRAIN, "config={a:1}"], "config={a:1}: expected the name of a preset: "),
        ([*TRAIN, "~train"], "~train: a key of the command cannot be deleted; omit this"),
        ([*TRAIN, "~tokenizer_fpath"], "cannot be deleted; write tokenizer_fpath=null"),
        ([*TRAIN, "train.batch_size=2,4"], "several values need -m"),
        ([*TRAIN, "train.wandb_name=${nowhere}"], "Interpolation key 'nowhere' not found"),
        ([*TRAIN, "tokenizer"], "'tokenizer' is not an override: write config=tokenizer"),
        ([*TRAIN, "--verbose"], "unknown option '--verbose'"),
        ([*TRAIN, "--mode=eval"], "mode=eval contradicts"),
        ([*TRAIN, "--config-dir=nowhere"], "--config-dir=nowhere: there is no such folder"),
        (["genie_redux", "trian"], "unknown mode 'genie_redux trian': did you mean 'train'?"),
        (["genie_redux"], "needs a mode"),
        (["genie-redux", "train"], "unknown command 'genie-redux': did you mean 'genie_redux'?"),
    ],
)
def test_a_mistake_is_one_line_that_helps(entries, capsys, arguments, expected):
    assert run.main(arguments) == 2
    assert expected in error_line(capsys)
    assert entries.configs == []


def test_keys_that_a_mapping_makes_up_are_accepted(entries):
    assert run.main(["generate", "+config.connector.action_map.DASH=run"]) == 0
    assert entries.configs[0].config.connector.action_map["DASH"] == "run"


def test_a_mapping_changes_what_it_names_adds_what_is_new_and_loses_what_is_deleted(entries):
    arguments = ["config.connector.action_map={UP:jump,ACTION_SECONDARY:shoot}", "~config.connector.action_map.DOWN"]
    assert run.main(["generate", *arguments]) == 0
    given = {"RIGHT": "^right$", "LEFT": "^left$", "UP": "jump", "ACTION_JUMP": "^jump$", "ACTION_SECONDARY": "shoot"}
    assert entries.configs[0].config.connector.action_map == given
    arguments = ["config=gymnasium/ale", "config.connector.env_kwargs={frameskip:2,mode:3}"]
    assert run.main(["generate", *arguments, "~config.connector.env_kwargs.full_action_space"]) == 0
    given = {"frameskip": 2, "repeat_action_probability": 0.0, "mode": 3}
    assert entries.configs[1].config.connector.env_kwargs == given


def test_auto_explore_without_a_world_model_says_what_to_do(capsys, tmp_path):
    assert run.main(["auto_explore", "train", f"world_model.root_dpath={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "world_model.root_dpath" in error and str(tmp_path / "demo") in error


def test_a_users_mistake_in_the_job_is_one_line(entries, capsys, monkeypatch):
    entries.error = UserError("dataset 'x' not found\n  under 'y'")
    assert run.main(TRAIN) == 2
    assert error_line(capsys) == "error: dataset 'x' not found under 'y'"
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert run.main(TRAIN) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_failure_shows_its_traceback(entries, capsys):
    entries.error = ZeroDivisionError("division by zero")
    assert run.main(TRAIN) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_one_line(entries, capsys):
    entries.error = KeyboardInterrupt()
    assert run.main(TRAIN) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_while_the_program_is_loaded_is_one_line(monkeypatch, capsys):
    class Loading:
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "launcher.main", Loading())
    assert run.main(["--help"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_exit_code_is_passed_on(entries):
    entries.error = SystemExit(143)
    assert run.main(TRAIN) == 143


# Parts


def test_nearest_names_are_near_or_none():
    assert nearest("tokeniser", ["tokenizer", "lam"]) == "tokenizer"
    assert nearest("xyz", ["tokenizer", "lam"]) is None
    assert nearest("lr_warmup", ["train.batch_size"]) is None
    assert nearest("warmup_total_iters", ["optimizer.linear_warmup_total_iters", "seed"]) is not None


def test_types_are_said_in_words():
    assert type_words(int | None) == "a whole number or null"
    assert type_words(list[str]).startswith("a list")


@pytest.mark.parametrize("key", ["resume_id=5", "resume_ckpt_id=3"])
def test_a_run_to_resume_without_resume_is_one_line(capsys, tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    assert run.main(["auto_explore", "train", f"common.{key}"]) == 2
    assert error_line(capsys) == f"error: common.{key}: a new run resumes nothing; set common.resume=true, or omit it"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["-m", "seed=1,2", "train.wandb_name=x"], ["x_0", "x_1"]),
        (["-m", "train.wandb_name=a,b"], ["a", "b"]),
        (["-m", "seed=1,2", "train.wandb_name=run-${seed}"], ["run-1", "run-2"]),
        (["-m", "seed=1,2", "config=demo"], ["demo_0", "demo_1"]),
        (["train.wandb_name=x"], ["x"]),
    ],
)
def test_each_job_of_a_multirun_has_a_folder_of_its_own(entries, arguments, names):
    assert run.main([*TRAIN, *arguments]) == 0
    assert [config.train.wandb_name for config in entries.configs] == names


@pytest.mark.parametrize("name", ["auto_explore", "agent57"])
def test_each_job_of_an_agents_multirun_has_a_name_of_its_own(entries, monkeypatch, name):
    module = "auto_explore.main" if name == "auto_explore" else "external.agent57.main"
    monkeypatch.setitem(sys.modules, module, entries)
    assert run.main([name, "train", "-m", "common.seed=1,2", "common.resume=auto"]) == 0
    assert [config.common.name for config in entries.configs] == [f"{name}_0", f"{name}_1"]
    assert [config.common.resume for config in entries.configs] == ["auto", "auto"]
    assert run.main([name, "train", "common.resume=true"]) == 0
    assert (entries.configs[-1].common.name, entries.configs[-1].common.resume) == (name, True)
    assert run.main([name, "train", "common.resume=no"]) == 2


def test_an_entry_point_knows_of_which_keys_each_job_has_another_value(entries):
    assert run.main([*TRAIN, "-m", "seed=1,2", "optimizer.learning_rate=1e-4", "tokenizer=small,base"]) == 0
    assert [invocation_of(config).swept for config in entries.configs] == [("seed", "tokenizer")] * 4


def test_more_processes_than_the_machine_carries_are_refused(entries, capsys):
    assert run.main([*TRAIN, "train.num_processes=1000"]) == 2
    assert "train.num_processes=1000: this machine has" in error_line(capsys)


def test_cores_that_a_cluster_has_not_given_to_the_job_do_not_count(entries, capsys, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert run.main([*TRAIN, "train.num_processes=5"]) == 2
    assert error_line(capsys) == "error: train.num_processes=5: this machine has 1 cores for it; use at most 4"


@pytest.mark.parametrize("option", ["--config-dir=~/mine", "--config-dir ~/mine"])
def test_a_folder_of_presets_may_be_in_the_home_folder(entries, monkeypatch, tmp_path, option):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine" / "config").mkdir(parents=True)
    (tmp_path / "mine" / "config" / "own.yaml").write_text("# @package _global_\nseed: 7\n")
    assert run.main([*TRAIN, *option.split(), "config=own"]) == 0
    assert entries.configs[0].seed == 7


@pytest.mark.parametrize("content", [
    b"train:\n  a: [\n", b"\xff\xfe", b"a: &a [*a]", b"[" * 5000, b"train:\n  batch_size: 1\x00",
    b"a: !!python/object/apply:os.system ['true']", b"train:\n  batch_size: 1\ntrain:\n  batch_size: 2",
    b"a: &a [1,1,1,1,1,1,1,1,1,1]\n" + b"\n".join(b"%c: &%c [%s]" % (
        98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(9)),
])  # fmt: skip
def test_a_preset_that_cannot_be_read_is_one_line_that_names_it(tmp_path, capsys, content):
    path = tmp_path / "config" / "spoilt.yaml"
    path.parent.mkdir()
    path.write_bytes(content)
    assert run.main([*TRAIN, "config=spoilt", "--config-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: preset '{path}' cannot be read") and "\n" not in error
