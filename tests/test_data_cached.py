"""Cached token ids: training is what it is without them, and old ids are never served."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from data.data import ClipDataset
from data.data_cached import CachedClipDataset, RecordKind, RecordStore
from data_generation.data.data import Environment
from data_generation.data.errors import UserError
from models.checkpoint import load_model, load_tokenizer
from models.tokenizer import Tokenizer
from tests.cache_helpers import NUM_SESSIONS, assert_same, latent_config, run, world_config, write_clips
from tests.training_helpers import DATASET, save_fresh, tiny_config, write_dataset
from training import clip_cache
from training.config import GenieReduxConfig
from training.main import evaluate, train

# Records of the 28 clips: 7 clips of each of 4 episodes, or the 23 frames that are in these.
NUM_RECORDS = {"both": 28, "decoder": 92, "none": 92}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_clips(tmp_path)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Number of records in each call of the tokenizer's encoder."""
    calls: list[int] = []
    real = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, video: calls.append(len(video)) or real(self, video))
    return calls


@pytest.mark.parametrize(
    ("model", "temporal", "use_decoder_loss"),
    [
        ("genie_redux_guided", "both", False),
        ("genie_redux_guided", "both", True),
        ("genie_redux", "both", False),
        ("genie_redux_guided", "none", False),
        ("genie_redux_guided", "none", True),
        ("genie_redux", "decoder", False),
    ],
)
def test_training_with_cached_ids_equals_training_without(root, model, temporal, use_decoder_loss):
    cfg = world_config(root, model, temporal, use_decoder_loss=use_decoder_loss, validate_every=5, num_train_steps=12)
    without = run(cfg, "without", enable_cache=False)
    run(cfg, "cold", num_train_steps=5)
    assert_same(run(cfg, "cold", resume_ckpt="latest"), without)  # the second epoch has every id


@pytest.mark.parametrize(("temporal", "n_data_workers"), [("both", 0), ("both", 2), ("none", 0), ("decoder", 2)])
def test_a_warm_cache_reads_no_frames_and_encodes_nothing(root, monkeypatch, encoded, temporal, n_data_workers):
    cfg = world_config(root, temporal=temporal, n_data_workers=n_data_workers)
    cold = run(cfg, "cold")
    # Each record once in 10 steps of 4 clips, but for what worker processes had read ahead, and, of single frames,
    # for those that two clips of a batch share.
    records_per_clip = 1 if temporal == "both" else 5
    most = 12 * n_data_workers * records_per_clip + (0 if temporal == "both" else 20)
    assert NUM_RECORDS[temporal] <= sum(encoded) <= NUM_RECORDS[temporal] + most
    encoded.clear()

    def read(*_):
        raise AssertionError("frames were read")

    monkeypatch.setattr(Environment, "read", read)
    assert_same(run(cfg, "warm"), cold)
    assert not encoded


@pytest.mark.parametrize("change", ["another tokenizer", "a tokenizer overwritten in place", "other frames", "bf16"])
def test_old_ids_are_never_served(root, encoded, change):
    cfg = world_config(root)
    run(cfg, "first")
    if change == "another tokenizer":
        cfg.tokenizer_fpath = str(save_fresh(root / "other" / "model-7.pt", tiny_config(root), seed=2))
    elif change == "a tokenizer overwritten in place":
        save_fresh(Path(cfg.tokenizer_fpath), tiny_config(root), seed=3)
    elif change == "other frames":
        write_dataset(root, sessions=NUM_SESSIONS, seed=1)  # the same names and lengths
    else:
        cfg.precision = "bf16"
    encoded.clear()
    second = run(cfg, "second")
    assert sum(encoded) == 28
    assert_same(second, run(cfg, "without", enable_cache=False))


def test_a_grown_dataset_keeps_the_ids_that_it_has(root, encoded):
    cfg = world_config(root)
    run(cfg, "first")
    write_dataset(root, sessions=10)
    encoded.clear()
    run(cfg, "second", num_train_steps=14)
    assert 0 < sum(encoded) <= 56 - 28  # 8 sessions of 7 clips, of which 28 were known


def test_clips_of_other_lengths_and_starts_share_the_ids_of_single_frames(root, encoded):
    cfg = world_config(root, temporal="none")
    run(cfg, "first")
    encoded.clear()
    cfg.data.seq_step = 2  # 10 clips of an episode, the last of which has its 24th frame
    longer = run(cfg, "second", num_frames=6, num_train_steps=20)
    assert 4 <= sum(encoded) <= 8
    assert_same(longer, run(cfg, "without", num_frames=6, num_train_steps=20, enable_cache=False))


def test_every_part_of_the_encoder_counts_and_the_decoder_does_not(root):
    tokenizer = load_tokenizer(save_fresh(root / "t" / "model-7.pt", tiny_config(root)))
    before = clip_cache.tokenizer_fingerprint(tokenizer)
    for name, parameter in tokenizer.named_parameters():
        kept = parameter.data.clone()
        parameter.data += 0.5
        assert (clip_cache.tokenizer_fingerprint(tokenizer) == before) == name.startswith(("decoder.", "to_pixels.")), (
            name
        )
        parameter.data = kept
    tokenizer.config.heads += 1
    assert clip_cache.tokenizer_fingerprint(tokenizer) != before


@pytest.mark.parametrize("alone", [False, True])
def test_a_clip_that_replaces_a_damaged_one_is_not_stored_as_that_one(root, tmp_path, alone):
    damaged = root / DATASET / "toy_square_v0.0.0" / "000000" / "000002.episode"
    whole = damaged.read_bytes()
    ClipDataset(root / DATASET, "train", 5, 3)  # writes the index
    clips = ClipDataset(root / DATASET, "train", 5, 3, on_bad_episode="skip")
    damaged.write_bytes(whole[:64] + bytes([whole[64] ^ 1]) + whole[65:])
    kinds = [RecordKind("ids", (4, 4), "int64", "<u2", by_clip=not alone), RecordKind("pairs", (), "int64", "<u2", 2)]
    store = RecordStore(tmp_path / "ids")
    for kind in kinds:
        store.add(kind, {})
    batch = CachedClipDataset(clips, store, kinds, all_frames=False).read(list(range(len(clips))))
    for name, per_clip in (("ids", 5 if alone else 1), ("pairs", 4)):
        replaced = [(record.clip, record.number) for record in batch.records[name].missing if record.key is None]
        # 7 clips per episode; the last lies behind the damaged chunk
        assert replaced == [(clip, number) for clip in range(14, 20) for number in range(per_clip)]
    assert torch.equal(batch.frames[14:20], clips.read(list(range(14, 20))).frames)


def trained_by_two(cfg: GenieReduxConfig) -> str:
    torch.set_num_threads(1)
    return str(train(cfg))


@pytest.mark.slow
@pytest.mark.parametrize("configured", [world_config, latent_config])
def test_two_training_processes_share_a_cache(root, configured):
    cfg, states = configured(root, batch_size=2), []
    for name, cached in (("without", False), ("cold", True), ("warm", True)):
        changed = replace(cfg, train=replace(cfg.train, wandb_name=name, enable_cache=cached))
        config = LaunchConfig(1, 1, 2, run_id=name, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
        states.append(load_model(Path(elastic_launch(config, trained_by_two)(changed)[0])).model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value) and torch.equal(states[2][key], value), key


@pytest.mark.parametrize("seq_step", [1, 3, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_sequences_of_frames_that_clips_share_are_counted_once(root, seq_step, length):
    clips = ClipDataset(root / DATASET, "train", 5, seq_step)
    starts = zip(*clips.locate(range(len(clips))), strict=True)
    different = {(row, start + first) for row, start in starts for first in range(5 - length + 1)}
    assert clips.num_sequences(length) == len(different)


# ---- limits and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["cache_max_gb", "No space left on device"])
def test_a_limit_or_a_full_disk_is_one_warning_and_training_continues(root, monkeypatch, caplog, tmp_path, reason):
    def full(fd, data, offset, write=os.pwrite):
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".ids"):
            raise OSError(28, reason)
        return write(fd, data, offset)

    cfg = world_config(root, cache_max_gb=2000 / 1e9, cache_dpath=str(tmp_path / "ids"))
    without = run(cfg, "without", enable_cache=False)
    if reason != "cache_max_gb":
        monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        assert_same(run(cfg, "cold"), without)
    assert caplog.text.count(reason) == 1
    size = sum(path.stat().st_blocks > 0 for path in (tmp_path / "ids").rglob("*.ids"))
    assert (0 < size <= 2000 // 168) if reason == "cache_max_gb" else size == 0
    assert_same(run(cfg, "warm"), without)


@pytest.mark.parametrize("problem", ["read-only", "missing", "a file"])
def test_a_cache_that_cannot_be_used_is_one_line(root, monkeypatch, problem):
    cfg = world_config(root, cache_dpath=str(root / "ids"))
    if problem == "read-only":

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("data.data_cached.write_atomically", refuse)  # root may write anywhere
    elif problem == "missing":
        cfg.train.cache_dpath = str(root / "not" / "there")
    else:
        (root / "ids").write_text("")
    with pytest.raises(UserError, match=r"^train\.cache_\w+=[^\n]*; [^\n]*$"):
        train(cfg)


def test_a_model_without_token_ids_and_an_evaluation_say_that_nothing_is_cached(root, caplog):
    cfg = tiny_config(root)
    cfg.train.enable_cache = cfg.eval.enable_cache = True
    cfg.eval.model_fpath = str(train(cfg))
    evaluate(cfg)
    assert "train.enable_cache has no effect" in caplog.text
    assert "eval.enable_cache has no effect" in caplog.text
    assert not (Path(cfg.train.save_root_dpath) / "token_ids").exists()
