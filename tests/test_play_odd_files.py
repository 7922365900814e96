"""What is wrong in one run or evaluation hides none of the others from the page."""

import os

import pytest

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from play.config import PlayConfig
from play.viewer import Library
from tests.play_helpers import play_config, serving

HUGE = "9" * 400
ODD = {
    "huge": f'{{"metrics": {{"psnr": {HUGE}, "other": -{HUGE}, "ssim": 0.5}}}}',
    "name": '{"metrics": {"psnr\\ud800": 1, "ssim": 0.5}}',
    "infinite": '{"metrics": {"psnr": 1e999, "fid": NaN, "ssim": 0.5}}',
    "digits": f'{{"metrics": {{"psnr": {"9" * 5000}}}}}',
    "list": "[1]",
    "cut": "{",
}


def test_an_odd_evaluation_leaves_the_others_to_be_seen(tmp_path):
    for name, text in {**ODD, "whole": '{"metrics": {"psnr": 31.25}}'}.items():
        (tmp_path / "evals" / name).mkdir(parents=True)
        (tmp_path / "evals" / name / "metrics.json").write_text(text)
    (tmp_path / "evals" / "vanished").mkdir()
    (tmp_path / "evals" / "vanished" / "metrics.json").symlink_to(tmp_path / "nothing")
    with serving(play_config(tmp_path)) as (client, _):
        answer = client.get("/look/evaluations")
    assert answer.status_code == 200
    metrics = {each["name"]: each["metrics"] for each in answer.json()}
    assert metrics["whole"] == {"psnr": 31.25}
    assert metrics["huge"] == metrics["infinite"] == {"ssim": 0.5}
    assert metrics["name"]["ssim"] == 0.5


def test_odd_numbers_and_names_in_a_run_leave_its_other_curves(tmp_path):
    run = tmp_path / "runs" / "odd"
    run.mkdir(parents=True)
    rows = (
        f'{{"step": 1, "split": "train", "loss": {HUGE}, "rate": 0.1}}',
        '{"step": 2, "split": "train", "loss": 0.5, "rate": 1e999}',
        '{"step": 3, "split": "tr\\udfff", "loss": 0.25}',
    )
    (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    with serving(play_config(tmp_path)) as (client, _):
        (listed,) = client.get("/look/runs").json()
        answer = client.get(f"/look/run/{listed['id']}")
    assert answer.status_code == 200
    curves = answer.json()["curves"]
    assert curves["train/loss"] == [[2, 0.5]] and curves["train/rate"] == [[1, 0.1]]


@pytest.mark.parametrize("kind", ["run", "evaluation"])
def test_an_image_stays_under_its_caption_while_others_are_written(tmp_path, kind):
    """The page lists the images once, and loads each when it comes into view."""
    folders = {"run": tmp_path / "runs" / "one", "evaluation": tmp_path / "evals" / "one"}
    for folder, mark, text in (("run", "metrics.jsonl", ""), ("evaluation", "metrics.json", '{"metrics": {}}')):
        (folders[folder] / "samples").mkdir(parents=True)
        (folders[folder] / mark).write_text(text)

    def write(step: int) -> None:
        path = folders[kind] / "samples" / f"step-{step}.png"
        path.write_bytes(path.name.encode())
        os.utime(path, (step, step))

    write(1)
    write(2)
    with serving(play_config(tmp_path)) as (client, _):
        (run,), (evaluation,) = client.get("/look/runs").json(), client.get("/look/evaluations").json()
        listed = client.get(f"/look/run/{run['id']}").json() if kind == "run" else evaluation
        key = run["id"] if kind == "run" else evaluation["id"]
        # More than are listed.
        for step in range(3, 60):
            write(step)
        shown = {name: client.get(f"/look/image/{kind}/{key}/{image}").text for image, name in listed["images"]}
        assert client.get(f"/look/image/{kind}/{key}/0").status_code == 404
    assert shown == {name: name for name in ("step-2.png", "step-1.png")}


@pytest.mark.parametrize("count", [1, 500, 501, 1001])
def test_long_curves_are_thinned_between_their_first_and_last_points(tmp_path, count):
    run = tmp_path / "runs" / "long"
    run.mkdir(parents=True)
    rows = (f'{{"step": {step}, "split": "train", "loss": {step / 8}}}' for step in range(1, count + 1))
    (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    library = Library(PlayConfig(datasets_dpath=str(tmp_path / "none"), runs_dpath=str(tmp_path / "runs")))
    curve = library.run(library.runs()[0]["id"])["curves"]["train/loss"]
    steps = [step for step, _ in curve]
    assert len(curve) == min(count, 500) and (steps[0], steps[-1]) == (1, count)
    assert steps == sorted(set(steps)) and all(loss == step / 8 for step, loss in curve)
