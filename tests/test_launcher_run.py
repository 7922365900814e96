"""The command line: help, and how an entry point is run, in one process or several."""

import dataclasses
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import run
from data_generation.data.cores import num_cores
from data_generation.data.errors import MissingPathError, UserError, under
from launcher.commands import COMMANDS, ROOT_DPATH
from launcher.processes import start
from tests.launcher_helpers import EVAL, TRAIN, error_line
from training.config import TrainConfig

# Help and configuration


def test_help_shows_every_key_with_value_and_documentation(entries, capsys):
    assert run.main([*TRAIN, "config=tokenizer", "--help"]) == 0
    text = capsys.readouterr().out
    for name in (field.name for field in dataclasses.fields(TrainConfig)):
        assert f"  train.{name} " in text
    assert re.search(r"^  train\.batch_size +7  +clips per process", text, re.MULTILINE)
    assert "clips per process and micro-step" in text
    assert text.count("python run.py genie_redux train config=") >= 3
    assert "eval.model_fpath" not in text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.title)
def test_help_shows_choices_only_of_groups_that_the_command_reads(capsys, command):
    assert run.main([*command.title.split(), "--help"]) == 0
    groups = re.findall(r"^(?:Sizes|Recipes) \((\w+)=…\): (.*)", capsys.readouterr().out, re.MULTILINE)
    assert all(command.reads(group) for group, _ in groups)
    # Choices are files of the group's own folder, not of folders below it.
    assert all("/" not in choices for _, choices in groups)


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


def test_cfg_shows_hydras_part_or_one_key_alone(entries, capsys):
    assert run.main([*TRAIN, "--cfg", "hydra"]) == 0
    assert list(yaml.safe_load(capsys.readouterr().out)) == ["hydra"]
    assert run.main([*TRAIN, "--cfg", "job", "--package", "train.batch_size", "train.batch_size=5"]) == 0
    assert capsys.readouterr().out == "5\n"
    assert run.main([*TRAIN, "--cfg", "job", "--package", "model_fpath"]) == 0
    assert capsys.readouterr().out == "null\n"
    assert run.main([*TRAIN, "--cfg", "job", "--package", "nowhere"]) == 2
    assert "--package=nowhere" in error_line(capsys)


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
    entries.error = UserError("no")
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
    """Entry point: every process writes how many threads it uses, adds its rank + 1, and writes the sum."""
    import torch
    from accelerate import Accelerator

    (job.out_dpath / f"{os.environ['RANK']}.threads").write_text(str(torch.get_num_threads()))
    accelerator = Accelerator()
    accelerator.wait_for_everyone()
    if job.fails and accelerator.process_index == 1:
        with under("train"):
            raise MissingPathError("dataset_name", "x", "no such\nfolder", "see {dataset_root_dpath}")
    total = accelerator.reduce(torch.tensor([accelerator.process_index + 1.0]))
    (job.out_dpath / f"{os.environ['RANK']}.txt").write_text(f"{accelerator.num_processes} {total.item()}")


def write_pid(job: Job) -> None:
    (job.out_dpath / "pid").write_text(str(os.getpid()))


def threads_of_both(job: Job) -> list[str]:
    return [(job.out_dpath / f"{rank}.threads").read_text() for rank in (0, 1)]


def test_processes_work_together_with_the_threads_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    job = Job(tmp_path)
    start("test_launcher_run:count_processes", job, num_processes=2)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.txt")} == {"0.txt": "2 3.0", "1.txt": "2 3.0"}
    assert threads_of_both(job) == ["3", "3"]


def test_a_mistake_found_by_one_process_stops_all_with_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", "no")
    job = Job(tmp_path, fails=True)
    with pytest.raises(UserError, match=r"^train.dataset_name=x: no such folder; see train.dataset_root_dpath$"):
        start("test_launcher_run:count_processes", job, num_processes=2)
    assert "Traceback" not in capfd.readouterr().err
    # What is no number says nothing: each has its share of the cores.
    assert threads_of_both(job) == [str(max(1, num_cores() // 2))] * 2


def test_processes_started_from_outside_are_not_started_again(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    start("test_launcher_run:write_pid", Job(tmp_path), num_processes=2)
    assert (tmp_path / "pid").read_text() == str(os.getpid())


def test_variables_that_are_set_but_empty_say_nothing(entries, monkeypatch):
    """As `WORLD_SIZE= python run.py …` does."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    assert run.main(TRAIN) == 0
    assert len(entries.configs) == 1
    assert Path("outputs/hydra").is_dir()


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
