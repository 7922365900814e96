"""How well the world model predicts the agents' play: the steps, and the table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.exploration.__main__ import make_experiment, read_arguments
from benchmarks.exploration.commands import METHODS, Experiment
from benchmarks.exploration.prediction import prediction_figure, prediction_stages, report_prediction
from benchmarks.exploration.settings import TRIAL
from benchmarks.exploration.steps import CommandStep
from benchmarks.presets import composed

MEASURED = ("psnr", "pooled_psnr", "changed_pooled_psnr", "ssim", "delta_psnr")


def experiment_of(root: Path, agents: str, words: str = "") -> Experiment:
    command = f"--smoke --parts prediction --agents {agents} --root {root} {words}"
    return make_experiment(read_arguments(command.split()))


def steps_of(experiment: Experiment) -> list[CommandStep]:
    return [step for stage in prediction_stages(experiment) for chain in stage for step in chain]


def test_the_model_of_random_play_is_evaluated_on_every_agents_play(tmp_path: Path) -> None:
    steps = steps_of(experiment_of(tmp_path, "random autoencoder random_features", "--data-seeds 2"))
    titles = [step.title for step in steps if "rewarding" not in step.title and step.title != "record random play"]
    learning = ("random_features", "autoencoder")
    assert titles[:4] == [f"train {agent}, seed {seed}" for seed in (1, 2) for agent in learning]
    assert set(titles[4:]) == {f"record {agent}_seed{seed}" for agent in (*learning, "random") for seed in (1, 2)}
    models = {word for step in steps if step.title.startswith("test") for word in step.arguments() if "fpath" in word}
    assert models == {f"eval.model_fpath={tmp_path}/checkpoints/genie_redux_guided/pretrain/model-20.pt"}
    assert sum(step.title.startswith("test") for step in steps) == 6
    assert composed("genie_redux eval", *steps[-1].arguments()[3:]).eval.inference_method == "one_go"


@pytest.mark.parametrize(("agent", "reward"), [("random_features", "cnn-mse"), ("autoencoder", "vae-mse")])
def test_curiosity_is_about_features(tmp_path: Path, agent: str, reward: str) -> None:
    (step,) = (step for step in steps_of(experiment_of(tmp_path, agent)) if step.title.startswith(f"train {agent},"))
    assert f"collection.reward.type={reward}" in step.arguments()


def test_the_play_that_is_hardest_to_predict_comes_first(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, "random auto_explore")
    for agent, psnr in (("random", 30.0), ("auto_explore", 20.0)):
        path = experiment.evaluation("rewarding", METHODS["one_go"], experiment.dataset(f"{agent}_seed1"))
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"metrics": {**dict.fromkeys(MEASURED, 0.5), "psnr": psnr}}))
    rows = report_prediction(experiment).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["AutoExplore (entropy)", "random"]
    assert [row.split("|")[2].strip() for row in rows] == ["20", "30"]
    content = json.loads((tmp_path / "prediction.json").read_text())
    assert content["random"]["psnr"] == {"center": 30, "low": 30, "high": 30, "count": 1, "seeds": [30]}
    assert (tmp_path / "prediction.png").read_bytes().startswith(b"\x89PNG")


def test_the_order_is_that_of_the_values_which_are_shown(tmp_path: Path) -> None:
    """The mean of these seeds has another order: one of them is far off."""
    experiment = replace(experiment_of(tmp_path, "random auto_explore"), scale=replace(TRIAL, data_seeds=4))
    for agent, values in (("random", (20, 20, 20, 20)), ("auto_explore", (10, 22, 22, 22))):
        for seed, psnr in enumerate(values, 1):
            path = experiment.evaluation("rewarding", METHODS["one_go"], experiment.dataset(f"{agent}_seed{seed}"))
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"metrics": {**dict.fromkeys(MEASURED, 0.5), "psnr": psnr}}))
    rows = report_prediction(experiment).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["random", "AutoExplore (entropy)"]


def test_the_plot_has_every_run_and_the_agents_in_the_tables_order() -> None:
    psnr = {"rnd": [21.0, 22.0], "random": [30.0]}
    measured = {agent: [{**dict.fromkeys(MEASURED, 0.5), "psnr": value} for value in psnr[agent]] for agent in psnr}
    axes = prediction_figure(measured, "cinderfoot").axes[0]
    assert axes.get_title() == "PSNR"
    points = [[list(point) for point in group.get_offsets()] for group in axes.collections]
    assert points == [[[21, 0], [22, 0]], [[30, 1]]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["RND", "random"]
    assert axes.yaxis_inverted()  # the first row is on top
