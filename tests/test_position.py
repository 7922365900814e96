"""Where the character is in streamed rollouts: what is read off their frames, against what the game reported."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.data import ClipDataset
from data_generation.data.errors import FieldError
from tests.training_helpers import DATASET, SIZE, save_fresh, tiny_config, write_dataset
from training.clips import Clips, frames_to_float
from training.main import evaluate
from training.measures.drift import Readers, measure_drift
from training.measures.frame_reader import train_reader, training_clips
from training.measures.position import (
    CharacterPosition,
    PositionReader,
    check_position,
    read_frames_and_positions,
    shown_positions,
)
from training.runtime import make_runtime

NUM_PRIME, NUM_FRAMES = 2, 16
EXPRESSIONS = ["x", "y"]
RUNTIME = make_runtime("cpu", "fp32")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("position"), sessions=24, reports_place=True)


@pytest.fixture(scope="module")
def position(root):
    """The reader, and clips that it was not trained on."""
    clips = ClipDataset(root / DATASET, "validation", NUM_FRAMES, 4)
    reader = PositionReader(EXPRESSIONS)
    train_reader(reader, training_clips(PositionReader, clips), 60, torch.device("cpu"))
    return CharacterPosition(reader, clips)


class Recording:
    """A world model that shows given frames (B, T, C, H, W), whatever the actions."""

    def __init__(self, frames):
        self.frames = frames

    def conditioning_actions(self, video, actions):
        return actions

    def start(self, prime_frames, actions=None):
        return prime_frames.shape[1]

    def step(self, state, action):
        return self.frames[:, state], state + 1


def drift(position: CharacterPosition, change) -> dict[str, float]:
    """Drift of a model that shows the recorded frames after `change`."""
    indices = list(range(len(position.clips)))
    batch = position.clips.read(indices)
    video = frames_to_float(batch.frames)
    clips = iter([Clips(indices, video, batch.actions)])
    return measure_drift(Recording(change(video)), clips, NUM_PRIME, RUNTIME, Readers(position=position)).scores


def test_streams_are_ranked_by_where_they_show_the_character(position):
    same = drift(position, lambda video: video)
    still = drift(position, lambda video: video[:, NUM_PRIME - 1, None].expand_as(video))
    # Everything moves as in the game, elsewhere.
    shifted = drift(position, lambda video: video.roll(5, dims=-1))
    backwards = drift(position, lambda video: video.flip(-1))
    last = NUM_FRAMES - NUM_PRIME
    for t in (1, 10, last):
        assert same[f"drift_position_accuracy_{t}"] == same[f"drift_ceiling_position_accuracy_{t}"] > 0.9
        assert same[f"drift_position_error_{t}"] == same[f"drift_ceiling_position_error_{t}"] <= position.tolerance
        assert still[f"drift_position_accuracy_{t}"] == still[f"drift_copy_last_position_accuracy_{t}"]
        assert shifted[f"drift_position_accuracy_{t}"] < 0.1
        assert shifted[f"drift_position_error_{t}"] > 3
    for worse in (still, backwards):
        assert worse[f"drift_position_accuracy_{last}"] < same[f"drift_position_accuracy_{last}"] - 0.3


def test_a_frame_without_the_character_does_not_show_it_where_the_game_has_it(position):
    without = drift(position, lambda video: video[:, :, :, :1].expand_as(video))
    assert without["drift_position_accuracy_10"] < 0.5 * without["drift_ceiling_position_accuracy_10"]


def test_recorded_positions_belong_to_the_frames_after_the_steps(position):
    frames, positions = read_frames_and_positions(position.clips, [0, 3, 5], EXPRESSIONS)
    bright = (frames[:, 1:, 0, 4] == 230).numpy()
    for shown, (x, y) in zip(bright.reshape(-1, SIZE), positions.reshape(-1, 2).tolist(), strict=True):
        assert shown[(int(x) + np.arange(4)) % SIZE].all() and shown.sum() == 4 and y == 4


def test_positions_are_arithmetic_of_what_the_game_reports(position):
    _, (plain,) = read_frames_and_positions(position.clips, [3], EXPRESSIONS)
    _, (scaled,) = read_frames_and_positions(position.clips, [3], ["(x - y + 8) * 64/256", "-y + 2.5"])
    assert torch.equal(scaled[:, 0], (plain[:, 0] + 4) / 4) and torch.equal(scaled[:, 1], 2.5 - plain[:, 1])
    _, (infinite,) = read_frames_and_positions(position.clips, [3], ["x/(y-y)", "y"])
    assert not infinite[:, 0].isfinite().any()


def test_a_position_that_is_not_known_is_not_counted(position):
    distances = np.array([[0.5, np.nan, np.nan], [9, 0.5, np.inf]])
    scores = position.scores("drift_position_", distances, [1, 2, 3])
    assert scores == {
        "drift_position_accuracy_1": 0.5,
        "drift_position_error_1": 4.75,
        "drift_position_accuracy_2": 1,
        "drift_position_error_2": 0.5,
    }


def test_frames_in_place_of_a_bad_episodes_have_no_position(root, tmp_path):
    shutil.copytree(root / DATASET, tmp_path / DATASET)
    clips = ClipDataset(tmp_path / DATASET, "all", 6, 6, on_bad_episode="skip")
    environment, episode = clips.episode_of(clips.locate([0])[0][0])
    environment.episode_path(episode).write_bytes(b"no episode")
    _, positions = read_frames_and_positions(clips, [0, len(clips) - 1], EXPRESSIONS)
    assert positions[0].isnan().all() and positions[1].isfinite().all()
    reader = PositionReader(EXPRESSIONS)
    assert reader.loss(clips, [0]) == 0 < reader.loss(clips, [0, len(clips) - 1])


def test_readers_of_equal_training_are_equal_and_any_frame_size_is_read(position):
    train = training_clips(PositionReader, position.clips)
    readers = [train_reader(PositionReader(EXPRESSIONS), train, 2, torch.device("cpu")) for _ in range(2)]
    for first, second in zip(*(reader.parameters() for reader in readers), strict=True):
        assert torch.equal(first, second)
    assert shown_positions(readers[0], torch.rand(2, 3, 3, 15, 21)).shape == (2, 3, 2)


@pytest.mark.parametrize(
    ("expressions", "message"),
    [
        (["x"], "position=['x']: is not the character's x and y; give two expressions"),
        (
            ["x", "z"],
            "the dataset records no number 'z' (there: x, y); name numbers that are there, or set position=[]",
        ),
        (["x", "y**2"], "'y**2' is not arithmetic of names and numbers; use + - * / and parentheses"),
        (["x", "y +"], "'y +' is not arithmetic of names and numbers"),
        (["x", "__import__('os')"], "is not arithmetic of names and numbers"),
        (["x", "1/0"], "'1/0' is not arithmetic of names and numbers"),
        (["x", "-" * 5000 + "y"], "is not arithmetic of names and numbers"),
        (["x", "True"], "'True' is not arithmetic of names and numbers"),
    ],
)
def test_expressions_without_a_value_are_one_line(position, expressions, message):
    with pytest.raises(FieldError) as caught:
        check_position(expressions, position.clips)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def evaluation(root, folder, **changes):
    cfg = tiny_config(root, "genie_redux_guided")
    cfg.eval = replace(cfg.eval, n_gifs=0, drift_frames=10, **changes, save_root_dpath=str(folder / "results"))
    cfg.eval.model_fpath = str(save_fresh(folder / "run" / "model-7.pt", cfg))
    return cfg


def test_an_evaluation_reports_positions_where_they_are_asked_for(root, tmp_path, capsys):
    cfg = evaluation(root, tmp_path, position=EXPRESSIONS, position_steps=2)
    first, second = (json.loads((evaluate(cfg) / "metrics.json").read_text())["metrics"] for _ in range(2))
    assert first == second
    names = {f"drift_{kind}position_{name}_{t}" for kind in ("", "ceiling_", "copy_last_")
             for name in ("accuracy", "error") for t in (1, 10)}  # fmt: skip
    assert names <= first.keys()
    assert len(list((tmp_path / "results" / "position").rglob("*.pt"))) == 1
    assert "the character is where the game has it" in capsys.readouterr().out
    cfg.eval.position = []
    without = json.loads((evaluate(cfg) / "metrics.json").read_text())["metrics"]
    assert without == {name: value for name, value in first.items() if name not in names}


def test_a_dataset_without_the_numbers_is_one_line_before_anything_is_measured(tmp_path):
    cfg = evaluation(write_dataset(tmp_path), tmp_path, position=EXPRESSIONS)
    with pytest.raises(
        FieldError, match=r"eval\.position=\['x', 'y'\]: .* no number 'x' \(there: none\); .*position=\["
    ):
        evaluate(cfg)
    assert not (tmp_path / "results").exists()
