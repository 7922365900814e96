"""Measures that the copy-last baseline cannot score well in, tried on predictors whose rank is known."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from data.data import ClipDataset
from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.errors import FieldError
from data_generation.generate import generate
from models.base import Prediction, Rollout
from models.config import SampleSettings
from tests.toy_game import WALK
from tests.training_helpers import ACTIONS, DATASET, save_fresh, tiny_config, write_dataset
from training.clips import read_clips
from training.config import EvalConfig
from training.images import PREDICTED, RECORDED
from training.main import evaluate
from training.measures.calibration import compute_calibration, update_calibration
from training.measures.counterfactuals import Omitted, measure_counterfactuals, play_counterfactuals
from training.measures.distances import frechet_distance, kernel_distance
from training.measures.drift import Readers, measure_drift, stream
from training.measures.frame_reader import train_reader
from training.measures.inverse_dynamics import InverseDynamics, shown_actions
from training.measures.lite0 import load_lite0
from training.metrics import GroundTruth, SampleTable, add_quality, averages, changed_pixels
from training.runtime import make_runtime


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos (B, T, C, H, W) and actions of play that the inverse-dynamics model was not trained on."""
    root = write_dataset(tmp_path_factory.mktemp("measures"), sessions=24)
    held_out = ClipDataset(root / DATASET, "validation", 6, 6)
    batch = held_out.read(list(range(len(held_out))))
    return root, batch.frames.float() / 255, batch.actions


def shares(found: dict[str, torch.Tensor], actions: torch.Tensor) -> dict[str, float]:
    return {name: float((shown == actions).float().mean()) for name, shown in found.items()}


def test_repeating_the_last_frame_scores_worst_of_all_in_pixels_that_change(clips):
    _, video, _ = clips
    target, still = video[:, 2:], video[:, 1:2].expand_as(video[:, 2:])
    truth = GroundTruth(list(range(len(video))), target, changed_pixels(target, video[:, 1:2]))
    table = SampleTable()
    for name, frames in {"still_": still, "half_": (still + target) / 2, "true_": target}.items():
        add_quality(table, name, frames, truth)
    found = averages(table.gather())
    still_psnr, half, true = (found[f"{name}_changed_pooled_psnr"] for name in ("still", "half", "true"))
    assert still_psnr < half - 3 < half < true == 100
    assert still_psnr < found["still_pooled_psnr"] - 5


def test_actions_are_read_off_real_frames_and_not_off_still_ones(clips):
    root, video, actions = clips
    train = ClipDataset(root / DATASET, "train", 5, 3)
    network = InverseDynamics(len(ACTIONS))
    train_reader(network, train, 60, torch.device("cpu"))
    other = video[torch.randperm(len(video), generator=torch.Generator().manual_seed(0))]
    frames = {"real": video, "still": video[:, :1].expand_as(video), "ignores the action": other}
    found = shares({name: shown_actions(network, v, 4) for name, v in frames.items()}, actions[:, -4:])
    assert found["real"] > 0.9
    assert found["still"] < 0.6 and found["ignores the action"] < 0.6
    again = InverseDynamics(len(ACTIONS))
    train_reader(again, train, 3, torch.device("cpu"))
    third = train_reader(InverseDynamics(len(ACTIONS)), train, 3, torch.device("cpu"))
    assert torch.equal(again.head.weight, third.head.weight)


def calibration(logits: torch.Tensor, ids: torch.Tensor) -> dict[str, float]:
    table = SampleTable()
    for index in range(len(ids)):
        update_calibration(table, [index], logits[index, None], ids[index, None])
    return compute_calibration(table.gather())


def test_a_reader_of_actions_is_trained_for_any_number_of_steps(clips):
    root, _, _ = clips
    train = ClipDataset(root / DATASET, "train", 5, 3)
    for num_steps in (1, 4, 5, 6):
        train_reader(InverseDynamics(len(ACTIONS)), train, num_steps, torch.device("cpu"))


def test_calibration_of_a_model_that_knows_what_it_does_not_know():
    generator = torch.Generator().manual_seed(0)
    sharpness = torch.rand(4, 7, 8, 8, 1, generator=generator) * 6
    logits = sharpness * torch.randn(4, 7, 8, 8, 16, generator=generator)
    drawn = torch.multinomial(logits.softmax(-1).flatten(0, -2), 1, generator=generator).view(4, 7, 8, 8)
    ids = torch.cat([drawn[:, :1], drawn], dim=1)
    found = calibration(logits, ids)
    assert found["calibration_auroc"] > 0.75 and found["calibration_ece"] < 0.04
    entropy = torch.distributions.Categorical(logits=logits).entropy().flatten()
    wrong = (logits.argmax(-1) != drawn).flatten()
    exact = (entropy[wrong][:, None] > entropy[~wrong][None]).float().mean()
    assert found["calibration_auroc"] == pytest.approx(float(exact), abs=3e-3)
    assert found["token_accuracy"] == pytest.approx(float((~wrong).float().mean()), abs=1e-6)
    overconfident = calibration(logits * 3, ids)
    assert overconfident["calibration_ece"] > found["calibration_ece"] + 0.1
    unrelated = logits[..., torch.randperm(16, generator=generator)][torch.randperm(4, generator=generator)]
    assert abs(calibration(unrelated, ids)["calibration_auroc"] - 0.5) < 0.1


@pytest.mark.filterwarnings("error")
def test_calibration_of_a_single_predicted_frame_has_no_rank_correlation():
    found = calibration(torch.randn(1, 1, 8, 8, 16), torch.zeros(1, 2, 8, 8, dtype=torch.int64))
    assert "calibration_auroc" in found and "calibration_frame_spearman" not in found


def test_calibration_without_errors_omits_what_it_cannot_say():
    ids = torch.zeros(1, 3, 2, 2, dtype=torch.int64)
    logits = F.one_hot(ids[:, 1:], 8).float() * 50
    found = calibration(logits, ids)
    assert found["token_accuracy"] == 1 and "calibration_auroc" not in found
    assert not any(math.isnan(value) for value in found.values())


def test_frechet_distance_is_that_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    second = 2 * torch.randn(4000, 3, generator=generator, dtype=torch.float64) + 1
    assert frechet_distance(first, second) == pytest.approx(3 + 3, rel=0.05)  # |μ|² + 3 (2 - 1)²
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert kernel_distance(first, first) == 0
    assert abs(kernel_distance(first[:2000], first[2000:])) < 0.1 < kernel_distance(first, second)


def test_lite0_distances_grow_with_blur_and_with_noise():
    network, reason = load_lite0(3, torch.device("cpu"))
    if network is None:
        pytest.skip(reason)
    generator = torch.Generator().manual_seed(0)
    # Shapes of all sizes, as natural images have.
    grids = [torch.rand(10, 3, size, size, generator=generator) for size in (2, 4, 8, 16, 32, 64)]
    frames = torch.stack([F.interpolate(grid, (64, 64), mode="bilinear") for grid in grids]).mean(dim=0)
    features = network(frames).double()
    noise = torch.randn(frames.shape, generator=generator)
    blurred = [F.avg_pool2d(frames, k, 1, k // 2, count_include_pad=False) for k in (3, 7, 15)]
    noisy = [frames + strength * noise for strength in (0.03, 0.1, 0.3)]
    for worse in (blurred, noisy):
        found = [network(images).double() for images in worse]
        for distance in (frechet_distance, kernel_distance):
            values = [distance(features, features), *(distance(other, features) for other in found)]
            assert values == sorted(values) and values[1] > values[0] + 1e-4


class Predictor:
    """A world model with a rule in place of a network; its state is the last frame and what it has shown."""

    num_actions = 3

    def __init__(self, follows: bool, moves: bool = True):
        self.follows, self.moves = follows, moves

    def conditioning_actions(self, video, actions):
        return actions

    def next(self, frame, action):
        """The toy game's square moved by the actions (B,), or always to the right."""
        shift = [((1, -1, 0)[int(a)] if self.follows else 1) * self.moves for a in action]
        return torch.stack([shifted(row, s) for row, s in zip(frame, shift, strict=True)])

    def start(self, prime_frames, actions=None):
        return prime_frames[:, -1]

    def step(self, state, action):
        frame = self.next(state, action)
        return frame, frame

    def continue_clips(self, video, actions, rollout, generators):
        frames = stream(self, video, actions, rollout.num_prime)
        return Prediction(frames, video[:, rollout.num_prime :], rollout.num_prime, rollout.num_prime)


def shifted(frame: torch.Tensor, by: int) -> torch.Tensor:
    """`toy_game.Walk` one step later: the square stops at the left edge."""
    seen = frame[2].amax(dim=0).nonzero().flatten()
    place = max(0, int(seen[0]) + by)
    later = frame.clone()
    later[2] = 0
    later[2, 4:9, place : place + 4] = 1
    later[1] = (frame[1] + 8 / 255).clamp(max=1)
    return later


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Recorded play of a game that can be played here."""
    root = tmp_path_factory.mktemp("walk")
    generator = GeneratorConfig(n_sessions=8, n_workers=1, n_steps_max=30)
    connector = ConnectorConfig(name="gymnasium", game=WALK, image_size=16, valid_action_combos=[])
    connector.generator_config, connector.n_skip_frames = generator, 1
    generate(GenerateConfig(DatasetConfig(connector, data_dpath=str(root), dname="t")))
    (dataset,) = root.iterdir()
    return ClipDataset(dataset, "all", 6, 6)


ROLLOUT = Rollout(2, 4, SampleSettings())
RUNTIME = make_runtime("cpu", "fp32")


def counterfactuals(dataset, model) -> dict[str, float]:
    found, reason = measure_counterfactuals(
        model, play_counterfactuals(dataset, [0, 3, 5], ROLLOUT), ROLLOUT, 0, RUNTIME
    )
    assert not reason
    return found


def test_counterfactuals_rank_predictors(walk):
    perfect, deaf, still = (counterfactuals(walk, Predictor(*p)) for p in ((True,), (False,), (True, False)))
    assert perfect["counterfactual_pooled_psnr"] == 100 and perfect["counterfactual_ranking"] == 1
    assert perfect["counterfactual_other_pooled_psnr"] < 30 and perfect["counterfactual_delta_psnr"] > 20
    for ignorant in (deaf, still):
        assert ignorant["counterfactual_delta_psnr"] == pytest.approx(0, abs=1e-4)
        assert ignorant["counterfactual_ranking"] == pytest.approx(0.5)


def test_counterfactuals_of_a_game_with_one_action_omit_what_compares_actions(walk):
    futures = (
        replace(found, video=found.video[:1], actions=found.actions[:1])
        for found in play_counterfactuals(walk, [0, 3], ROLLOUT)
    )
    scores, reason = measure_counterfactuals(Predictor(True), futures, ROLLOUT, 0, RUNTIME)
    assert reason == "counterfactuals compare no actions: the game has one"
    assert {"counterfactual_psnr", "counterfactual_copy_last_pooled_psnr"} <= scores.keys()
    assert not {"counterfactual_other_pooled_psnr", "counterfactual_delta_psnr"} & scores.keys()
    assert all(math.isfinite(value) for value in scores.values())


def test_a_state_of_a_bad_episode_is_omitted_and_counted_where_bad_episodes_are_skipped(walk, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(walk.dataset_dpath, root)
    skipping, strict = (ClipDataset(root, "all", 6, 6, on_bad_episode=value) for value in ("skip", "error"))
    environment, episode = skipping.episode_of(skipping.locate([0])[0][0])
    environment.episode_path(episode).write_bytes(b"no episode")

    def measured(dataset, indices):
        return measure_counterfactuals(
            Predictor(True), play_counterfactuals(dataset, indices, ROLLOUT), ROLLOUT, 0, RUNTIME
        )

    scores, note = measured(skipping, [0, len(skipping) - 1])
    assert scores["counterfactual_pooled_psnr"] == 100
    assert note == "counterfactuals of 1 of 2 states: its episode is bad (1)"
    assert measured(skipping, [0]) == ({}, "no counterfactuals: its episode is bad (1)")
    with pytest.raises(FieldError, match="set on_bad_episode=skip"):
        measured(strict, [0])


def test_a_game_that_cannot_be_played_here_is_one_line(clips):
    dataset = ClipDataset(clips[0] / DATASET, "all", 6, 6)
    found, reason = measure_counterfactuals(
        Predictor(True), play_counterfactuals(dataset, [0], ROLLOUT), ROLLOUT, 0, RUNTIME
    )
    assert found == {} and reason.startswith("no counterfactuals: 'square' cannot be played here")
    assert "\n" not in reason


@pytest.mark.parametrize("broken", ["a", "z"])
def test_a_game_that_shows_other_frames_costs_its_own_states_alone_wherever_they_are(walk, tmp_path, broken):
    (source,) = walk.dataset_dpath.glob("*/info.json")
    for name in ("a", "z"):
        shutil.copytree(source.parent, tmp_path / name)
        info = json.loads(source.read_text()) | {"name": name}
        if name == broken:
            info["connector"]["n_skip_frames"] = 3
        (tmp_path / name / "info.json").write_text(json.dumps(info))
    dataset = ClipDataset(tmp_path, "all", 6, 6)
    indices = [0, 3, len(dataset) // 2 + 1, len(dataset) - 1]

    def measured(indices):
        futures = play_counterfactuals(dataset, indices, ROLLOUT)
        return measure_counterfactuals(Predictor(True), futures, ROLLOUT, 0, RUNTIME)

    whole = measured([i for i in indices if dataset.episode_of(dataset.locate([i])[0][0])[0].name != broken])
    assert whole[1] == ""
    scores, note = measured(indices)
    assert scores == whole[0]
    assert note.startswith("counterfactuals of 2 of 4 states: ")
    assert note.endswith("shows other frames than were recorded (2)")


def test_a_state_whose_game_proves_another_one_later_is_omitted_too(walk):
    """As on another process."""
    futures = list(play_counterfactuals(walk, [0, 3, 5], ROLLOUT))
    name = futures[0].environment
    late = [*futures[:2], Omitted(5, name, "other frames", of_all=True)]
    assert measure_counterfactuals(Predictor(True), iter(late), ROLLOUT, 0, RUNTIME) == (
        {},
        "no counterfactuals: other frames (3)",
    )


def test_drift_ranks_predictors(walk):
    dataset = ClipDataset(walk.dataset_dpath, "all", 12, 12)
    config = EvalConfig(batch_size=2)
    found = {}
    for name, model in {"perfect": Predictor(True), "still": Predictor(True, False)}.items():
        clips = read_clips(dataset, list(range(min(4, len(dataset)))), config, torch.device("cpu"))
        drift = measure_drift(model, clips, 2, RUNTIME, Readers(), frozenset([0, 1]))
        found[name] = drift.scores
        assert drift.films[RECORDED].shape == drift.films[PREDICTED].shape and len(drift.films[RECORDED]) == 2
    assert {key.rsplit("_", 1)[1] for key in found["perfect"]} == {"1", "10"}
    assert found["perfect"]["drift_psnr_10"] == 100 > found["still"]["drift_psnr_10"]
    assert found["perfect"]["drift_copy_last_pooled_psnr_10"] < 40


def test_an_evaluation_reports_every_measure_and_trains_the_reader_of_actions_once(clips, tmp_path, capsys):
    cfg = tiny_config(clips[0], "genie_redux_guided")
    changes = {"action_following_steps": 2, "drift_frames": 10, "n_counterfactuals": 1, "n_gifs": 0, "split": "test"}
    cfg.eval = replace(cfg.eval, **changes, save_root_dpath=str(tmp_path / "results"))
    cfg.eval.model_fpath = str(save_fresh(tmp_path / "run" / "model-7.pt", cfg))
    first, second = (json.loads((evaluate(cfg) / "metrics.json").read_text())["metrics"] for _ in range(2))
    assert first == second
    following = {f"action_following{suffix}" for suffix in ("", "_ceiling", "_floor", "_random")}
    assert following | {"token_accuracy", "calibration_ece", "changed_pooled_psnr"} <= first.keys()
    assert {"drift_psnr_1", "drift_pooled_psnr_10", "drift_copy_last_psnr_10"} <= first.keys()
    assert len(list((tmp_path / "results" / "inverse_dynamics").rglob("*.pt"))) == 1
    printed = capsys.readouterr().out
    assert "(ceiling)" in printed and "drift" in printed and "cannot be played here" in printed


def test_actions_are_read_off_the_clips_that_the_reader_does_not_know(clips, tmp_path, monkeypatch):
    cfg = tiny_config(clips[0], "genie_redux_guided")
    changes = {"action_following_steps": 2, "drift_frames": 0, "n_gifs": 0, "n_total_samples": 0, "seq_step": 9}
    cfg.eval = replace(cfg.eval, **changes, save_root_dpath=str(tmp_path / "results"))
    cfg.eval.model_fpath = str(save_fresh(tmp_path / "run" / "model-7.pt", cfg))
    found = {}
    for split in ("all", "train", "validation"):
        read = []
        monkeypatch.setattr(
            "training.evaluation.shown_actions",
            lambda network, frames, count, read=read: read.append(len(frames)) or shown_actions(network, frames, count),
        )
        cfg.eval.split = split
        content = json.loads((evaluate(cfg) / "metrics.json").read_text())
        found[split] = content, sum(read)
    lengths = {
        split: len(ClipDataset(clips[0] / DATASET, split, cfg.eval.num_frames, 9)) for split in ("all", "train", "test")
    }
    # Predicted, recorded, and under random actions twice: compared with the recorded ones and with themselves.
    assert found["all"][1] == 4 * (lengths["all"] - lengths["train"])
    assert f"action following: of {lengths['all'] - lengths['train']} of {lengths['all']} clips" in str(found["all"][0])
    assert not found["train"][1] and not any("following" in name for name in found["train"][0]["metrics"])
    assert "action following: of no clip" in str(found["train"][0]["notes"])
    assert "following" not in str(found["validation"][0]["notes"])
    assert "action_following" in found["validation"][0]["metrics"]


def test_drift_longer_than_every_episode_is_one_line(clips, tmp_path):
    cfg = tiny_config(clips[0], "genie_redux_guided")
    cfg.eval = replace(cfg.eval, drift_frames=50, save_root_dpath=str(tmp_path / "results"))
    cfg.eval.model_fpath = str(save_fresh(tmp_path / "run" / "model-7.pt", cfg))
    with pytest.raises(FieldError, match=r"eval\.drift_frames=50: with eval\.num_first_frames=2 it is longer"):
        evaluate(cfg)
