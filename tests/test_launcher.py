"""The command line: what it accepts, what it says when something is wrong, how it runs an entry point."""

import dataclasses
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

import demo
import run
from launcher.commands import ROOT_DPATH
from launcher.keys import nearest_key, nearest_name, type_words
from launcher.processes import start
from launcher.spelling import RENAMED_KEYS, respell
from training.config import GenieReduxConfig, TrainConfig

TRAIN, EVAL = ["genie_redux", "train"], ["genie_redux", "eval"]


class Entries(types.ModuleType):
    """Stands in for `training.main` and `data_generation.generate`: keeps the configurations it was called with."""

    def __init__(self) -> None:
        super().__init__("entries")
        self.configs: list = []
        self.error: BaseException | None = None

    def train(self, cfg) -> None:
        self.configs.append(cfg)
        if self.error is not None:
            raise self.error

    evaluate = generate = train


@pytest.fixture
def entries(tmp_path, monkeypatch) -> Entries:
    """Entry points that only record, called from an empty folder."""
    module = Entries()
    for name in ("training.main", "data_generation.generate"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    return module


def error_line(capsys) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


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
    spelled = respell([f"{old}=1"], None, [], [])
    assert spelled.arguments == [f"{RENAMED_KEYS[old]}=1"]
    assert len(spelled.notes) == 1


def test_suffixes_are_dropped_from_presets_only():
    arguments = ["config=a.yaml,b/c.json", "tokenizer_fpath=x.yaml", "--cfg=job", "-m", "+config=d.yml"]
    spelled = respell(arguments, "train", ["--cfg"], ["config"])
    assert spelled.arguments == ["config=a,b/c", "tokenizer_fpath=x.yaml", "--cfg=job", "-m", "+config=d"]


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


def test_auto_explore_without_a_world_model_says_what_to_do(capsys, tmp_path):
    assert run.main(["auto_explore", "train", f"world_model.root_dpath={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "world_model.root_dpath" in error and str(tmp_path / "demo") in error


def test_a_users_mistake_in_the_job_is_one_line(entries, capsys, monkeypatch):
    entries.error = FileNotFoundError("dataset 'x' not found\n  under 'y'")
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


def test_an_exit_code_is_passed_on(entries):
    entries.error = SystemExit(143)
    assert run.main(TRAIN) == 143


# Help and configuration


def test_help_shows_every_key_with_value_and_documentation(entries, capsys):
    assert run.main([*TRAIN, "config=tokenizer", "--help"]) == 0
    text = capsys.readouterr().out
    for name in (field.name for field in dataclasses.fields(TrainConfig)):
        assert f"  train.{name} " in text
    assert "  train.batch_size                      7 " in text
    assert "clips per process and micro-step" in text
    assert text.count("python run.py genie_redux train config=") >= 3
    assert "eval.model_fpath" not in text


@pytest.mark.parametrize(
    "arguments", [["--help"], [], ["genie_redux", "--help"], [*EVAL, "-h"], ["generate", "--help"]]
)
def test_help_runs_nothing(entries, capsys, arguments):
    assert run.main(arguments) == (0 if arguments else 2)
    assert "python run.py genie_redux eval" in capsys.readouterr().out or arguments[:1] == ["generate"]
    assert entries.configs == []
    assert list(Path.cwd().iterdir()) == []


def test_cfg_job_prints_what_would_run(entries, capsys):
    assert run.main([*TRAIN, "config=tokenizer", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"] == "tokenizer"
    assert shown["train"]["batch_size"] == 7
    assert entries.configs == []
    assert list(Path.cwd().iterdir()) == []


def test_hydras_own_help_and_info_work(entries, capsys):
    assert run.main([*TRAIN, "--hydra-help"]) == 0
    assert run.main([*TRAIN, "--info", "defaults"]) == 0
    assert "hydra" in capsys.readouterr().out.lower()


# Running


def test_hydras_record_is_all_that_a_run_leaves(entries):
    assert run.main(TRAIN) == 0
    (record,) = Path("outputs/hydra").glob("*/*")
    assert (record / ".hydra" / "overrides.yaml").is_file()
    assert [path.name for path in Path.cwd().iterdir()] == ["outputs"]


def test_the_user_may_move_hydras_record(entries, tmp_path):
    assert run.main([*TRAIN, "hydra.run.dir=elsewhere", "hydra/job_logging=disabled"]) == 0
    assert (tmp_path / "elsewhere" / ".hydra").is_dir()


def test_runs_in_one_process_do_not_see_each_other(entries, tmp_path):
    handlers, level = list(logging.root.handlers), logging.root.level
    assert run.main([*TRAIN, "config=tokenizer"]) == 0
    assert run.main([*EVAL, "eval.num_frames=8"]) == 0
    assert run.main(["generate"]) == 0
    assert [type(config).__name__ for config in entries.configs] == ["GenieReduxConfig"] * 2 + ["GenerateConfig"]
    assert entries.configs[1].model == "genie_redux_guided"
    assert Path.cwd() == tmp_path
    assert (logging.root.handlers, logging.root.level) == (handlers, level)


def test_multirun_gives_each_job_its_own_name(entries):
    assert run.main([*TRAIN, "-m", "config=tokenizer", "train.batch_size=2,4"]) == 0
    runs = [(config.train.batch_size, config.train.wandb_name) for config in entries.configs]
    assert runs == [(2, "tokenizer_0"), (4, "tokenizer_1")]


def test_multirun_reports_a_failed_job(entries):
    entries.error = ValueError("no")
    assert run.main([*TRAIN, "-m", "seed=1,2"]) == 2
    assert len(entries.configs) == 2


@pytest.mark.parametrize(
    ("preset", "folder"),
    [
        ("tokenizer", "tokenizer/tokenizer"),
        ("tokenizer_ft_smb", "tokenizer/tokenizer_ft_smb"),
        ("genie_redux_guided_pretrain", "genie_redux_guided/genie_redux_guided_pretrain"),
        ("genie_redux_guided_50", "genie_redux_guided/genie_redux_guided"),
        ("genie_redux_guided_ft_ai2", "genie_redux_guided/genie_redux_guided_ft_ai2"),
        ("genie_redux", "genie_redux/genie_redux"),
    ],
)
def test_checkpoints_land_in_the_published_folders(entries, preset, folder):
    assert run.main([*TRAIN, f"config={preset}"]) == 0
    config = entries.configs[0]
    assert f"{config.model}/{config.train.wandb_name}" == folder


def test_run_py_works_from_another_folder(tmp_path):
    command = [sys.executable, str(ROOT_DPATH / "run.py"), *TRAIN, "config=tokenizer.yaml", "--cfg", "job"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["train"]["dataset_root_dpath"] == "data_generation/datasets"


# Several processes


@dataclasses.dataclass
class Job:
    """Configuration of the entry points below, which the started processes import from this file."""

    out_dpath: Path
    fails: bool = False


def count_processes(job: Job) -> None:
    """Entry point: every process adds its rank + 1, and writes the sum."""
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator()
    if job.fails and accelerator.process_index == 1:
        raise FileNotFoundError("dataset 'x'\nnot found")
    total = accelerator.reduce(torch.tensor([accelerator.process_index + 1.0]))
    (job.out_dpath / f"{os.environ['RANK']}.txt").write_text(f"{accelerator.num_processes} {total.item()}")


def write_pid(job: Job) -> None:
    (job.out_dpath / "pid").write_text(str(os.getpid()))


def test_processes_work_together(tmp_path):
    start("test_launcher:count_processes", Job(tmp_path), num_processes=2)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0.txt": "2 3.0", "1.txt": "2 3.0"}


def test_a_mistake_found_by_one_process_stops_all_with_one_line(tmp_path, capfd):
    with pytest.raises(ValueError, match=r"^dataset 'x' not found$"):
        start("test_launcher:count_processes", Job(tmp_path, fails=True), num_processes=2)
    assert "Traceback" not in capfd.readouterr().err


def test_processes_started_from_outside_are_not_started_again(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    start("test_launcher:write_pid", Job(tmp_path), num_processes=2)
    assert (tmp_path / "pid").read_text() == str(os.getpid())


def test_only_the_first_of_several_processes_keeps_a_record(entries, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run.main(TRAIN) == 0
    assert len(entries.configs) == 1
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_processes_below_one_is_refused(entries, capsys, count):
    assert run.main([*TRAIN, f"train.num_processes={count}"]) == 2
    assert f"num_processes={count}" in error_line(capsys)


# Demo


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
        assert f"$ python run.py {' '.join(call)}\n" in text
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


# Parts


def test_nearest_names_are_near_or_none():
    assert nearest_name("tokeniser", ["tokenizer", "lam"]) == "tokenizer"
    assert nearest_name("xyz", ["tokenizer", "lam"]) is None
    assert nearest_key("lr_warmup", ["train.batch_size"]) is None
    assert nearest_key("warmup_total_iters", ["optimizer.linear_warmup_total_iters", "seed"]) is not None


def test_types_are_said_in_words():
    assert type_words(int | None) == "a whole number or null"
    assert type_words(list[str]).startswith("a list")
