"""Kept errors of a frozen LAM: training is what it is without them, and those of another LAM are never served."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from data_generation.data.data import Environment
from models.construct_model import build_model
from models.lam import LatentActionModel
from tests.cache_helpers import assert_same, latent_config, run, world_config, write_clips
from tests.training_helpers import save_fresh, tiny_config
from training.clip_cache import kept_outputs
from training.config import GenieReduxConfig

# Of the 28 clips: 4 episodes with 22 transitions between their 23 used frames.
NUM_TRANSITIONS = 4 * 22


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_clips(tmp_path)


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """Number of transitions in each call of the frozen LAM."""
    calls: list[int] = []
    real = LatentActionModel.transition_errors

    def counted(self: LatentActionModel, video: torch.Tensor) -> torch.Tensor:
        calls.append(len(video) * (video.shape[1] - 1))
        return real(self, video)

    monkeypatch.setattr(LatentActionModel, "transition_errors", counted)
    return calls


def names_of_kept(cfg: GenieReduxConfig) -> list[str]:
    return [output.kind.name for output in kept_outputs(cfg.train, build_model(cfg))]


def lam_with(root: Path, seed: int = 1, **changes) -> str:
    cfg = tiny_config(root, "lam")
    cfg.lam.assignment = "best"
    for name, value in changes.items():
        setattr(cfg.lam, name, value)
    return str(save_fresh(root / f"lam{seed}" / "model-7.pt", cfg, seed))


@pytest.mark.parametrize(
    ("temporal", "persistence", "changes"),
    [
        ("none", 0.8, {}),
        ("none", 0.0, {}),
        ("none", 0.8, {"use_decoder_loss": True}),
        ("both", 0.8, {}),
        # Of a causal tokenizer's clips, by default transitions alone are kept.
        ("both", 0.8, {"enable_cache": None}),
    ],
    ids=str,
)
def test_training_with_kept_errors_equals_training_without(root, temporal, persistence, changes):
    cfg = latent_config(root, temporal, **{"validate_every": 5, "num_train_steps": 12, **changes})
    cfg.lam.persistence = persistence
    without = run(cfg, "without", enable_cache=False)
    run(cfg, "cold", num_train_steps=5)
    assert_same(run(cfg, "cold", resume_ckpt="latest"), without)  # the second epoch has every error


@pytest.mark.parametrize("n_data_workers", [0, 2])
def test_where_all_is_kept_no_frame_is_read_and_nothing_computed(root, monkeypatch, computed, n_data_workers):
    cfg = latent_config(root, n_data_workers=n_data_workers)
    cold = run(cfg, "cold")
    # Each transition once, but for those that two clips of a batch share and what workers had read ahead.
    assert NUM_TRANSITIONS <= sum(computed) <= NUM_TRANSITIONS + 20 + 12 * 4 * n_data_workers
    computed.clear()

    def read(*_):
        raise AssertionError("frames were read")

    monkeypatch.setattr(Environment, "read", read)
    assert_same(run(cfg, "warm"), cold)
    assert not computed


def test_clips_of_other_lengths_and_starts_share_the_errors_of_transitions(root, computed):
    cfg = latent_config(root)
    run(cfg, "first")
    computed.clear()
    cfg.data.seq_step = 2  # 10 clips of an episode, the last of which has its 24th frame
    longer = run(cfg, "second", num_frames=6, num_train_steps=20)
    assert 4 <= sum(computed) <= 8
    assert_same(longer, run(cfg, "without", num_frames=6, num_train_steps=20, enable_cache=False))


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, GenieReduxConfig]:
    """A dataset, and the configuration of a run that has kept its errors."""
    root = write_clips(tmp_path_factory.mktemp("first"))
    cfg = latent_config(root)
    run(cfg, "first")
    return root, cfg


@pytest.mark.parametrize(
    ("change", "is_new"),
    [
        ("other weights", True),
        ("another number of codes", True),
        ("bf16", True),
        ("another choice from the same errors", False),
        ("another tokenizer", False),
    ],
)
def test_errors_of_another_lam_are_never_served(first, computed, change, is_new):
    root, cfg = first[0], deepcopy(first[1])
    if change == "other weights":
        cfg.lam_fpath = lam_with(root, seed=3)
    elif change == "another number of codes":
        cfg.lam_fpath = lam_with(root, num_actions=4)
    elif change == "bf16":
        cfg.precision = "bf16"
    elif change == "another tokenizer":
        cfg.tokenizer_fpath = world_config(root / "other", temporal="decoder").tokenizer_fpath
    else:
        cfg.lam.persistence, cfg.lam.change_floor = 0.5, 0.1
    second = run(cfg, change)
    assert (sum(computed) >= NUM_TRANSITIONS) if is_new else not computed
    assert_same(second, run(cfg, f"{change}, without", enable_cache=False))


def test_a_truncated_file_of_errors_is_computed_again_from_there(root, computed):
    cfg = latent_config(root)
    cold = run(cfg, "cold")
    paths = sorted(Path(cfg.train.save_root_dpath).rglob("*.transition_errors"))
    assert len(paths) == 4
    whole = paths[0].read_bytes()
    size = len(whole) // 22
    assert size == 8 + 4 * np.dtype("<f4").itemsize  # three codes and the repeated frame
    paths[0].write_bytes(whole[: 20 * size + 5])
    computed.clear()
    assert_same(run(cfg, "again"), cold)
    assert sum(computed) == 2
    assert paths[0].read_bytes() == whole


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"frozen": True, "assignment": "best"}, ["ids", "transition_errors"]),
        ({"frozen": True, "assignment": "encoder"}, ["ids"]),
        ({"frozen": False, "assignment": "best"}, ["ids"]),
    ],
    ids=str,
)
def test_errors_are_kept_only_of_a_lam_that_stays_and_takes_transitions_alone(settings, kept):
    cfg = tiny_config(Path(), "genie_redux")
    cfg.tokenizer.temporal = "none"
    for name, value in settings.items():
        setattr(cfg.lam, name, value)
    assert names_of_kept(cfg) == kept
    assert build_model(cfg).needs_video == (kept == ["ids"])
    cfg.train.enable_cache = False
    assert names_of_kept(cfg) == []


@pytest.mark.parametrize("settings", [{"frozen": True, "assignment": "encoder"}, {"frozen": False}], ids=str)
def test_other_lams_are_given_frames(root, computed, settings):
    cfg = latent_config(root)
    for name, value in settings.items():
        setattr(cfg.lam, name, value)
    if settings.get("assignment") == "encoder":
        cfg.lam_fpath = str(save_fresh(root / "encoder" / "model-7.pt", tiny_config(root, "lam")))
    assert_same(run(cfg, "cached"), run(cfg, "without", enable_cache=False))
    assert not computed
    assert not list(Path(cfg.train.save_root_dpath).rglob("*.transition_errors"))


@pytest.mark.parametrize("codebook_size", [2, 1 << 16, (1 << 16) + 1])
def test_files_hold_the_largest_token_id(codebook_size):
    cfg = tiny_config(Path(), "genie_redux_guided")
    cfg.tokenizer.codebook_size, cfg.dynamics.action_dim, cfg.train.enable_cache = codebook_size, 3, True
    (ids,) = kept_outputs(cfg.train, build_model(cfg))
    assert np.iinfo(ids.kind.stored_dtype).max >= codebook_size - 1
