"""Steps that are commands: what runs, what is skipped, and what is said."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.exploration.steps import CommandStep, StepRunner
from data_generation.data.errors import UserError

Make = Callable[..., CommandStep]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A step that leaves a file of its name, if those that it `needs` are there."""

    def make(name: str, needs: str = "") -> CommandStep:
        code = f"import pathlib; d = pathlib.Path({str(tmp_path)!r}); [(d / n).read_text() for n in {needs.split()}]"
        code += f"; (d / {name!r}).open('a').write('x')"
        return CommandStep(name, lambda: ("-c", code), (tmp_path / name).exists)

    return make


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_steps_run_once_and_after_those_that_they_need(num_jobs: int, make: Make, tmp_path: Path) -> None:
    stages = [[[make("a"), make("b", "a")]], [[make("c", "b")], [make("d", "b")]], [[make("e", "c d")]]]
    StepRunner(stages, num_jobs, tmp_path / "logs").run()
    StepRunner(stages, num_jobs, tmp_path / "logs").run()
    assert {name: (tmp_path / name).read_text() for name in "abcde"} == dict.fromkeys("abcde", "x")


def test_a_failed_step_ends_the_run_and_the_next_start_resumes_there(
    make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stages = [[[make("a"), make("b", "given"), make("c", "b")]]]
    with pytest.raises(UserError, match=r"^b: its command failed with exit code 1 \(see above\)"):
        StepRunner(stages, 1, tmp_path / "logs").run()
    assert capfd.readouterr().out.startswith("3 steps, 0 of them done; first: a\n\n[1/3] a\n$ python -c ")
    (tmp_path / "given").touch()
    StepRunner(stages, 1, tmp_path / "logs").run()
    said = capfd.readouterr().out
    assert said.startswith("3 steps, 1 of them done; first: b\n\n[2/3] b\n$ python -c ")
    assert re.search(r"^\[2/3\] b: done in .* s; next: c$", said, re.MULTILINE)
    assert (tmp_path / "a").read_text() == "x"


def test_side_by_side_each_command_has_a_file_for_its_output(make: Make, tmp_path: Path) -> None:
    stages = [[[make("a", "nothing"), make("b")], [make("c")]]]
    with pytest.raises(UserError, match="a: its command failed with exit code 1"):
        StepRunner(stages, 2, tmp_path / "logs").run()
    assert "FileNotFoundError" in (tmp_path / "logs" / "a.log").read_text()
    assert not (tmp_path / "b").exists()


def test_a_command_that_brings_nothing_is_not_given_for_ever(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^idle: the command ended without its result"):
        StepRunner([[[CommandStep("idle", lambda: ("-c", ""), lambda: False)]]], 1, tmp_path).run()
