"""`python run.py doctor`: a line for each thing, with the remedy, whatever is wrong."""

import threading
from pathlib import Path

import pytest

import run
from launcher import doctor
from launcher.doctor import CHECKS, Finding, run_checks


def lines_of(capsys) -> dict[str, str]:
    """State and text by name; the last line apart."""
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line[9:22].strip() for line in lines] == list(CHECKS)
    return {**{line[9:22].strip(): f"{line[:8].strip()} {line[23:]}" for line in lines}, "last": last}


def test_every_check_has_a_line_and_nothing_is_missing_here(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_SECONDS", 600)
    assert run.main(["doctor"]) == 0
    lines = lines_of(capsys)
    assert lines["torch"].startswith("ok 2.") and "cpu (" in lines["torch"]
    assert "Cinderfoot-Nes" in lines["ROMs"] and "stable_retro.import" in lines["ROMs"]
    assert lines["last"] == "nothing is missing that every command needs"


def test_what_is_missing_is_named_with_its_remedy(capsys, monkeypatch, tmp_path):
    def not_installed(name: str) -> str:
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", not_installed)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", "")
    assert run.main(["doctor"]) == 2
    lines = lines_of(capsys)
    assert lines["last"] == "missing: packages, torch, ROMs"
    for name, text in (
        ("packages", "missing not installed: torch, accelerate"),
        ("git", "note not found"),
        ("browser", "note no Chromium, no playwright"),
        ("wandb", "note not installed"),
        ("home", "cannot be written (No such file or directory): set HOME"),
    ):
        assert text in lines[name]


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("raise SystemError('no driver')", "does not work (SystemError: no driver)"),
        ("import os; os.abort()", "does not work ("),
        ("import time; time.sleep(60)", "does not end"),
    ],
)
def test_a_torch_that_fails_or_hangs_is_one_line(monkeypatch, probe, expected):
    monkeypatch.setattr(doctor, "_TORCH_PROBE", probe)
    monkeypatch.setattr(doctor, "_SECONDS", 5.1 if "sleep" in probe else 60)
    finding = CHECKS["torch"]()
    assert finding.state != "ok" and expected in finding.text and "\n" not in finding.text
    assert "nvidia-smi" in finding.remedy


def test_a_check_that_raises_or_never_answers_leaves_the_others(tmp_path):
    forever = threading.Event()

    def hangs() -> Finding:
        forever.wait()
        return Finding("ok", "")

    def fails() -> Finding:
        return Finding("ok", (Path(tmp_path) / "none").read_text())

    checks = {"hangs": hangs, "fails": fails, "works": lambda: Finding("ok", "here")}
    found = dict(run_checks(checks, 2))
    forever.set()
    assert found["hangs"].text == "no answer within 2 s"
    assert found["fails"].state == "note" and "FileNotFoundError" in found["fails"].text
    assert found["works"] == Finding("ok", "here")
