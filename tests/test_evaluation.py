"""Evaluation: what is measured, that batches and processes do not change it, and what is left behind."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from data_generation.data.errors import FieldError
from models.checkpoint import load_model, save_model
from models.genie_redux import GenieRedux, SampleSettings
from tests.distributed_helpers import run_together
from tests.training_helpers import SIZE, rows, save_fresh, tiny_config, write_dataset
from training import main
from training.clips import read_clips
from training.config import GenieReduxConfig
from training.loading import ClipChoice, open_clips
from training.main import evaluate
from training.metrics import psnr_per_frame, ssim_per_frame
from training.rollout import seed_of


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("evaluation"), sessions=4)


def config(root: Path, tmp_path: Path, model: str = "genie_redux_guided", **changes) -> GenieReduxConfig:
    cfg = tiny_config(root, model)
    fpath = save_fresh(tmp_path / "run" / "model-7.pt", cfg)
    return with_eval(replace(cfg, eval=replace(cfg.eval, model_fpath=str(fpath))), tmp_path, **changes)


def with_eval(cfg: GenieReduxConfig, tmp_path: Path, **changes) -> GenieReduxConfig:
    return replace(cfg, eval=replace(cfg.eval, save_root_dpath=str(tmp_path / "results"), **changes))


def results(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def spy_on_continuations(monkeypatch) -> list:
    """Actions, rollout and seeds of each call that continues clips."""
    calls = []
    original = GenieRedux.continue_clips

    def spy(model, video, actions, rollout, generators):
        calls.append((actions.clone(), rollout, [generator.initial_seed() for generator in generators]))
        return original(model, video, actions, rollout, generators)

    monkeypatch.setattr(GenieRedux, "continue_clips", spy)
    return calls


# ---- values ---------------------------------------------------------------------------------------------------------


def test_replication_equals_metrics_of_sampled_frames_computed_by_hand(root, tmp_path):
    cfg = config(root, tmp_path, n_total_samples=0, seq_step=9)
    folder = evaluate(cfg)
    assert folder == tmp_path / "results" / "genie_redux_guided" / "toy_v0.0.0" / "replicate_one_go"
    found = results(folder)
    model = load_model(Path(cfg.eval.model_fpath)).model
    dataset = open_clips(cfg.eval, ClipChoice("all", 6, 9), "error")
    settings = SampleSettings("one_go", inference_steps=3)
    psnr, ssim, still = [], [], []
    for index in range(len(dataset)):
        frames, actions = dataset[index]
        video = frames[None].float() / 255
        generator = torch.Generator().manual_seed(seed_of(cfg.seed, 2, index))
        made = model.sample(video[:, :2], actions[None], 4, settings, generator)
        psnr.append(psnr_per_frame(made, video[:, 2:]))
        ssim.append(ssim_per_frame(made, video[:, 2:]))
        still.append(psnr_per_frame(video[:, 1:2].expand(-1, 4, -1, -1, -1), video[:, 2:]))
    assert found["num_clips"] == len(dataset)
    assert found["metrics"]["psnr"] == pytest.approx(torch.cat(psnr).mean().item(), rel=1e-5)
    assert found["metrics"]["ssim"] == pytest.approx(torch.cat(ssim).mean().item(), rel=1e-5)
    assert found["metrics"]["copy_last_psnr"] == pytest.approx(torch.cat(still).mean().item(), rel=1e-5)
    assert found["per_frame"]["psnr"] == pytest.approx(torch.cat(psnr).mean(dim=0).tolist(), rel=1e-5)
    assert found["step"] == 7


@pytest.mark.parametrize("method", ["one_go", "autoregressive"])
def test_results_do_not_depend_on_the_batch_size(root, tmp_path, method):
    measured = []
    for batch_size in (1, 2, 5):
        cfg = config(root, tmp_path / str(batch_size), batch_size=batch_size, inference_method=method)
        measured.append(results(evaluate(cfg)))
    for other in measured[1:]:
        for name, value in measured[0]["metrics"].items():
            assert other["metrics"][name] == pytest.approx(value, abs=2e-3), name
        assert other["num_clips"] == 5


def test_results_are_the_same_each_time_and_change_with_the_seed(root, tmp_path):
    cfg = config(root, tmp_path)
    first, second = (results(evaluate(cfg))["metrics"] for _ in range(2))
    assert first == second
    assert results(evaluate(replace(cfg, seed=1)))["metrics"]["psnr"] != first["psnr"]


def test_delta_psnr_rollouts_have_the_same_settings_noise_and_prime_actions(root, tmp_path, monkeypatch):
    calls = spy_on_continuations(monkeypatch)
    evaluate(config(root, tmp_path, batch_size=5))
    (true, rollout, seeds), (drawn, other_rollout, other_seeds) = calls
    assert (rollout, seeds) == (other_rollout, other_seeds)
    assert rollout.settings.inference_steps == 3
    assert torch.equal(true[:, :1], drawn[:, :1])  # two prime frames: one action between them
    assert not torch.equal(true[:, 1:], drawn[:, 1:])


def test_delta_psnr_is_zero_for_a_model_that_ignores_actions(root, tmp_path):
    cfg = config(root, tmp_path)
    loaded = load_model(Path(cfg.eval.model_fpath))
    assert isinstance(loaded.model, GenieRedux)
    torch.nn.init.zeros_(loaded.model.dynamics.action_embedding.weight)
    save_model(Path(cfg.eval.model_fpath), loaded.model, loaded.config, 7)
    metrics = results(evaluate(cfg))["metrics"]
    assert metrics["delta_psnr"] == 0
    assert metrics["random_actions_psnr"] == metrics["psnr"]


def test_without_eval_control_no_control_rollout_runs(root, tmp_path, monkeypatch):
    calls = spy_on_continuations(monkeypatch)
    found = results(evaluate(config(root, tmp_path, batch_size=5, eval_control=False, delta_psnr_horizon=99)))
    assert "delta_psnr" not in found["metrics"]
    assert len(calls) == 1


def test_latent_action_models_replicate_with_inferred_actions_not_with_recorded_ids(root, tmp_path, monkeypatch):
    cfg = config(root, tmp_path, "genie_redux", batch_size=5, n_total_samples=5)
    calls = spy_on_continuations(monkeypatch)
    evaluate(cfg)
    model = load_model(Path(cfg.eval.model_fpath)).model
    dataset = open_clips(cfg.eval, ClipChoice("all", 6, 6), "error")
    indices = [int(i) for i in np.linspace(0, len(dataset), 5, endpoint=False).astype(int)]
    clips = next(read_clips(dataset, indices, replace(cfg.eval, batch_size=5), torch.device("cpu")))
    given = calls[0][0]
    assert torch.equal(given, model.infer_actions(clips.video))
    assert not torch.equal(given, clips.actions)


def test_the_tokenizers_bound_is_its_reconstruction_of_the_predicted_frames_alone(root, tmp_path):
    cfg = config(root, tmp_path, n_total_samples=0)
    found = results(evaluate(cfg))
    model = load_model(Path(cfg.eval.model_fpath)).model
    dataset = open_clips(cfg.eval, ClipChoice("all", 6, 6), "error")
    clips = next(
        read_clips(dataset, list(range(len(dataset))), replace(cfg.eval, batch_size=len(dataset)), torch.device("cpu"))
    )
    with torch.no_grad():
        made = model.tokenizer.reconstruct(clips.video)[:, 2:]
    expected = psnr_per_frame(made, clips.video[:, 2:]).mean(dim=0).tolist()
    assert found["per_frame"]["tokenizer_psnr"] == pytest.approx(expected, rel=1e-4)


# ---- control and reconstruction -------------------------------------------------------------------------------------


def test_control_holds_one_action_and_names_its_folder(root, tmp_path, monkeypatch):
    calls = spy_on_continuations(monkeypatch)
    folder = evaluate(config(root, tmp_path, action_to_take=1, batch_size=5))
    given = calls[0][0]
    assert folder.name == "control_1_LEFT_one_go"
    assert (given[:, 1:] == 1).all()
    assert not (given[:, 0] == 1).all()  # the prime frames' action is the recorded one
    found = results(folder)
    assert set(found["metrics"]) == {"psnr_to_last_given_frame", "psnr_to_random_actions"}
    assert sorted(p.name for p in folder.glob("clip-*")) == [f"clip-00{i}.{s}" for i in (0, 1) for s in ("gif", "png")]


def test_held_actions_have_no_distances_to_recorded_frames(root, tmp_path, monkeypatch):
    monkeypatch.setattr("training.evaluation.load_lite0", lambda *_: pytest.fail("features of held actions"))
    notes = results(evaluate(config(root, tmp_path, action_to_take=1, eval_lite0=True)))["notes"]
    assert "no lite0_frechet, lite0_kernel: held actions have no recorded frames to compare with" in notes


@pytest.mark.parametrize("action", [-2, 3])
def test_an_action_out_of_range_lists_the_actions(root, tmp_path, action):
    with pytest.raises(ValueError, match=r"out of range.*0 RIGHT, 1 LEFT, 2 STAY") as error:
        evaluate(config(root, tmp_path, action_to_take=action))
    assert "\n" not in str(error.value)


def test_latent_actions_are_controlled_by_number(root, tmp_path):
    assert evaluate(config(root, tmp_path, "genie_redux", action_to_take=2)).name == "control_2_latent_2_one_go"


@pytest.mark.parametrize("model", ["tokenizer", "lam"])
def test_tokenizers_and_lams_are_evaluated_by_reconstruction(root, tmp_path, model):
    folder = evaluate(config(root, tmp_path, model))
    found = results(folder)
    assert folder.name == "reconstruct"
    measured = {name for name in found["metrics"] if not name.startswith(("latent_", "copy_previous_"))}
    assert measured == {"psnr", "ssim", "pooled_psnr", "changed_pooled_psnr", "changed_share"}
    assert ("copy_previous_psnr" in found["metrics"]) == (model == "lam")
    assert ("latent_nmi" in found["metrics"]) == (model == "lam")
    assert found["num_frames_per_clip"] == {"tokenizer": 6, "lam": 5}[model]


@pytest.mark.parametrize("dream_length", [1, 3])
def test_autoregressive_predicts_exactly_as_many_frames_as_asked(root, tmp_path, dream_length):
    folder = evaluate(config(root, tmp_path, inference_method="autoregressive", dream_length=dream_length))
    assert folder.name == f"replicate_autoregressive_dream{dream_length}"
    assert len(results(folder)["per_frame"]["psnr"]) == 4


# ---- what is left behind --------------------------------------------------------------------------------------------


def test_images_show_the_recorded_frames_over_the_predicted_ones(root, tmp_path):
    cfg = config(root, tmp_path)
    folder = evaluate(cfg)
    names = {"metrics.json", "psnr_per_frame.png", "report.html", "run.json", "strips.png"} | {
        f"clip-00{i}.{s}" for i in (0, 1) for s in ("gif", "png")
    }
    assert {path.name for path in folder.iterdir()} == names
    sheet = np.asarray(Image.open(folder / "clip-000.png"))
    tile, label = 4 * SIZE + 8, 24
    dataset = open_clips(cfg.eval, ClipChoice("all", 6, 6), "error")
    frames = dataset[0][0].permute(0, 2, 3, 1).numpy()
    for t in range(6):
        shown = sheet[label + 4 : label + 4 + 4 * SIZE : 4, t * tile + 4 : (t + 1) * tile - 4 : 4]
        np.testing.assert_array_equal(shown, frames[t])
    below = sheet[2 * label + tile + 4 :: 4, 4 : tile - 4 : 4][:SIZE]
    np.testing.assert_array_equal(below, frames[0])  # a prime frame is shown as it was given
    assert Image.open(folder / "clip-000.gif").n_frames == 6


def test_a_second_evaluation_replaces_the_first_and_leaves_nothing_of_it(root, tmp_path):
    folder = evaluate(config(root, tmp_path, n_gifs=2))
    assert evaluate(config(root, tmp_path, n_gifs=0)) == folder
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["metrics.json", "psnr_per_frame.png", "report.html", "run.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["replicate_one_go"]


@pytest.fixture
def unmeasured(monkeypatch):
    """The evaluation may not get as far as measuring."""
    monkeypatch.setattr("training.evaluation.read_clips", lambda *_: pytest.fail("measured in vain"))


@pytest.mark.parametrize("has_report", [False, True])
def test_a_folder_with_something_else_is_not_replaced(root, tmp_path, unmeasured, has_report):
    cfg = config(root, tmp_path)
    other = tmp_path / "results" / "genie_redux_guided" / "toy_v0.0.0" / "replicate_one_go"
    other.mkdir(parents=True)
    (other / "thesis.txt").write_text("mine")
    if has_report:
        (other / "metrics.json").write_text("{}")
    with pytest.raises(FieldError, match=r"eval\.save_root_dpath=.*holds 'thesis.txt', .*; move it away"):
        evaluate(cfg)
    assert (other / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("root_name", ["file", "file/below", "link", "/proc/nope"])
def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(root, tmp_path, unmeasured, root_name):
    cfg = config(root, tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    cfg.eval.save_root_dpath = str(tmp_path / root_name)
    with pytest.raises(FieldError, match=r"eval\.save_root_dpath=.*cannot be written .*; set another folder"):
        evaluate(cfg)


def test_what_a_killed_evaluation_left_is_replaced(root, tmp_path):
    folder = tmp_path / "results" / "genie_redux_guided" / "toy_v0.0.0" / "replicate_one_go"
    folder.mkdir(parents=True)
    for name in ("strips.png", "clip-007.gif", ".report.html.0123abcd-1-ab.tmp"):
        (folder / name).touch()
    assert evaluate(config(root, tmp_path, n_gifs=0)) == folder
    assert not (folder / "clip-007.gif").exists()


def test_the_table_names_the_metrics_the_reason_for_no_fid_and_the_place(root, tmp_path, capsys):
    folder = evaluate(config(root, tmp_path))
    printed = capsys.readouterr().out
    assert re.search(r"prediction( +\d+\.\d+){4}\n", printed)
    assert "ΔPSNR" in printed
    assert "no FID" in printed
    assert str(folder) in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_fpath": None}, "eval.model_fpath: is not set"),
        ({"model_fpath": "none/model-1.pt"}, "eval.model_fpath=none/model-1.pt: checkpoint not found"),
        ({"dataset_name": "none_v0"}, "run 'python run.py generate"),
        ({"num_frames": 5}, "exceeds eval.num_frames=5; set eval.num_frames to 6"),
        ({"delta_psnr_horizon": 5}, "eval.delta_psnr_horizon=5"),
        ({"inference_method": "both"}, "one_go or autoregressive"),
        ({"fid_weights": "none.pth"}, "eval.fid_weights=none.pth: file of the FID Inception-v3 weights not found"),
        ({"split": "some"}, "some"),
    ],
)
def test_wrong_settings_are_one_line(root, tmp_path, changes, message):
    cfg = with_eval(config(root, tmp_path), tmp_path, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)) as error:
        evaluate(cfg)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("model", ["tokenizer", "lam", "genie_redux", "genie_redux_guided"])
def test_clips_too_short_for_the_model_are_one_line(root, tmp_path, model):
    cfg = config(root, tmp_path, model, num_frames=1)
    with pytest.raises(FieldError, match=r"^eval\.num_frames=1: must be at least 2 for this model; use longer clips"):
        evaluate(cfg)


def test_a_tokenizer_of_single_frames_is_evaluated_on_them(root, tmp_path):
    cfg = tiny_config(root)
    cfg.tokenizer.temporal = "none"
    cfg.eval.model_fpath = str(save_fresh(tmp_path / "run" / "model-7.pt", cfg))
    assert results(evaluate(with_eval(cfg, tmp_path, num_frames=1)))["metrics"]["psnr"] > 0


def test_a_model_with_other_actions_or_frames_is_one_line(root, tmp_path):
    larger = write_dataset(tmp_path / "larger", sessions=1, size=24)
    cfg = with_eval(config(root, tmp_path), tmp_path, dataset_root_dpath=str(larger))
    with pytest.raises(ValueError, match="24x24"):
        evaluate(cfg)


def test_a_measure_that_is_not_defined_is_omitted_and_named(root, tmp_path, monkeypatch):
    measures = {"calibration_ece": math.nan, "calibration_auroc": math.inf, "token_accuracy": 0.5}
    monkeypatch.setattr("training.evaluation.compute_calibration", lambda rows: measures)
    real = main.evaluation.add_quality

    def add_quality(table, prefix, frames, truth):
        real(table, prefix, frames, truth)
        table.add("odd", truth.indices, torch.tensor([[1.0, math.nan]]).expand(len(truth.indices), 2))

    monkeypatch.setattr("training.evaluation.add_quality", add_quality)
    text = (evaluate(config(root, tmp_path)) / "metrics.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["metrics"]["token_accuracy"] == 0.5 and "odd" not in found["metrics"]
    assert not {"calibration_ece", "calibration_auroc"} & found["metrics"].keys()
    assert "no calibration_ece: it is not defined for these clips" in found["notes"]
    assert found["per_frame"]["odd"] == [1.0, None]


def test_tiny_frames_are_trained_and_evaluated_without_ssim(tmp_path):
    cfg = tiny_config(write_dataset(tmp_path / "tiny", size=4))
    cfg.tokenizer.image_size = 4
    cfg.train = replace(cfg.train, num_train_steps=1, validate_every=1)
    cfg.eval.model_fpath = str(main.train(cfg))
    (row,) = rows(cfg, "validation")
    assert row["psnr"] > 0 and "ssim" not in row
    found = results(evaluate(with_eval(cfg, tmp_path)))
    assert found["metrics"]["psnr"] > 0 and "ssim" not in found["metrics"]
    assert "no ssim: it is not defined for these clips" in found["notes"]


# ---- several processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_gifs", [1, 3])
def test_processes_show_as_many_films_as_are_wanted_together(root, tmp_path, n_gifs):
    changes = {"drift_frames": 6, "n_gifs": n_gifs, "eval_control": False, "n_total_samples": 3}
    cfg = config(root, tmp_path, **changes)
    assert run_together(2, "training.main:evaluate", cfg) == [0, 0]
    (folder,) = (tmp_path / "results").rglob("replicate_one_go")
    assert len(list(folder.glob("film-*.gif"))) == len(list(folder.glob("clip-*.gif"))) == n_gifs


def run_in_process(cfg: GenieReduxConfig) -> None:
    main.evaluate(cfg)


@pytest.mark.slow
def test_two_processes_measure_exactly_what_one_does(root, tmp_path):
    cfg = config(root, tmp_path)
    alone = results(evaluate(cfg))
    launch = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    two = with_eval(cfg, tmp_path / "two")
    elastic_launch(launch, run_in_process)(two)
    folder = tmp_path / "two" / "results" / "genie_redux_guided" / "toy_v0.0.0" / "replicate_one_go"
    together = results(folder)
    assert together["num_clips"] == alone["num_clips"]
    assert together["metrics"] == pytest.approx(alone["metrics"], abs=2e-3)
    assert len(list(folder.glob("clip-*"))) == 4
