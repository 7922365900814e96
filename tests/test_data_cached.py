"""Cached token ids: training is what it is without them, and old ids are never served."""

import logging
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from data.data import ClipDataset
from data.data_cached import CachedClipDataset, RecordKey, TokenStore, used_bytes
from data_generation.data.data import Environment
from data_generation.data.errors import UserError
from models.checkpoint import load_model, load_tokenizer
from models.tokenizer import Tokenizer
from tests.training_helpers import DATASET, save_fresh, tiny_config, write_dataset
from training import token_cache
from training.config import GenieReduxConfig
from training.main import evaluate, run_dpath, train
from training.tracker import read_metrics

# Records of the 56 clips: 7 clips of each of 8 episodes, or the 23 frames that are in these.
NUM_RECORDS = {"both": 56, "decoder": 184, "none": 184}


def tokenizer_config(root: Path, temporal: str = "both") -> GenieReduxConfig:
    cfg = tiny_config(root)
    cfg.tokenizer.temporal = temporal
    return cfg


def world_config(root: Path, model: str = "genie_redux_guided", temporal: str = "both", **changes) -> GenieReduxConfig:
    """A world model on 56 clips (14 steps an epoch) with a cache, and a tokenizer with random weights."""
    cfg = tiny_config(root, model)
    cfg.data.seq_step = 3
    cfg.tokenizer_fpath = str(save_fresh(root / "tokenizer" / "model-7.pt", tokenizer_config(root, temporal)))
    cfg.train = replace(cfg.train, **{"enable_cache": True, "num_train_steps": 20, **changes})
    return cfg


def run(cfg: GenieReduxConfig, name: str, **changes) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Weights and metrics (without times) of a training run."""
    cfg = replace(cfg, train=replace(cfg.train, wandb_name=name, **changes))
    state = load_model(train(cfg)).model.state_dict()
    timing = {"time", "steps_per_second", "clips_per_second"}
    rows = read_metrics(run_dpath(cfg) / "metrics.jsonl")
    return state, [{k: v for k, v in row.items() if k not in timing} for row in rows]


def assert_same(ours: tuple, theirs: tuple) -> None:
    assert ours[1] == theirs[1]
    for name, value in theirs[0].items():
        assert torch.equal(ours[0][name], value), name


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
    cfg = world_config(root, model, temporal, use_decoder_loss=use_decoder_loss, validate_every=10)
    without = run(cfg, "without", enable_cache=False)
    run(cfg, "cold", num_train_steps=10)
    assert_same(run(cfg, "cold", resume_ckpt="latest"), without)  # the second epoch has every id
    assert_same(run(cfg, "warm"), without)


@pytest.mark.parametrize(("temporal", "n_data_workers"), [("both", 0), ("both", 2), ("none", 0), ("decoder", 2)])
def test_a_warm_cache_reads_no_frames_and_encodes_nothing(root, monkeypatch, encoded, temporal, n_data_workers):
    cfg = world_config(root, temporal=temporal, n_data_workers=n_data_workers)
    cold = run(cfg, "cold")
    # Each record once in 20 steps of 4 clips, but for what worker processes had read ahead, and, of single frames,
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
        write_dataset(root, seed=1)  # the same names and lengths
    else:
        cfg.precision = "bf16"
    encoded.clear()
    second = run(cfg, "second")
    assert sum(encoded) == 56
    assert_same(second, run(cfg, "without", enable_cache=False))


def test_a_grown_dataset_keeps_the_ids_that_it_has(root, encoded):
    cfg = world_config(root)
    run(cfg, "first")
    write_dataset(root, sessions=20)
    encoded.clear()
    run(cfg, "second", num_train_steps=200 // 4)
    assert 0 < sum(encoded) <= 126 - 56  # 18 sessions of 7 clips, of which 56 were known


def test_clips_of_other_lengths_and_starts_share_the_ids_of_single_frames(root, encoded):
    cfg = world_config(root, temporal="none")
    run(cfg, "first")
    encoded.clear()
    cfg.data.seq_step = 2  # 10 clips of an episode, the last of which has its 24th frame
    longer = run(cfg, "second", num_frames=6, num_train_steps=40)
    assert 8 <= sum(encoded) <= 16
    assert_same(longer, run(cfg, "without", num_frames=6, num_train_steps=40, enable_cache=False))


def test_every_part_of_the_encoder_counts_and_the_decoder_does_not(root):
    tokenizer = load_tokenizer(save_fresh(root / "t" / "model-7.pt", tiny_config(root)))
    before = token_cache.fingerprint(tokenizer)
    for name, parameter in tokenizer.named_parameters():
        kept = parameter.data.clone()
        parameter.data += 0.5
        assert (token_cache.fingerprint(tokenizer) == before) == name.startswith(("decoder.", "to_pixels.")), name
        parameter.data = kept
    tokenizer.config.heads += 1
    assert token_cache.fingerprint(tokenizer) != before


@pytest.mark.parametrize("alone", [False, True])
def test_a_clip_that_replaces_a_damaged_one_is_not_stored_as_that_one(root, tmp_path, alone):
    damaged = root / DATASET / "toy_square_v0.0.0" / "000000" / "000002.episode"
    whole = damaged.read_bytes()
    ClipDataset(root / DATASET, "train", 5, 3)  # writes the index
    clips = ClipDataset(root / DATASET, "train", 5, 3, on_bad_episode="skip")
    damaged.write_bytes(whole[:64] + bytes([whole[64] ^ 1]) + whole[65:])
    cached = CachedClipDataset(clips, TokenStore(tmp_path / "ids", 16), (4, 4), False, frames_alone=alone)
    batch = cached.read(list(range(len(clips))))
    per_clip = 5 if alone else 1
    replaced = [i for i, key in zip(batch.missing, batch.keys, strict=True) if key is None]
    # 7 clips per episode; the last lies behind the damaged chunk
    assert replaced == list(range(14 * per_clip, 20 * per_clip))
    frames = batch.frames.reshape(len(clips), *clips[0][0].shape)
    assert torch.equal(frames[14:20], clips.read(list(range(14, 20))).frames)


# ---- the store ------------------------------------------------------------------------------------------------------


def clip(seed: int, codebook_size: int = 16) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(0, codebook_size, (5, 4, 4))
    ids.flat[0] = codebook_size - 1
    return ids


def read(store: TokenStore, key: RecordKey) -> np.ndarray | None:
    ids = np.full((1, 5, 4, 4), -1)
    return None if store.read(key, ids) else ids[0]


@pytest.mark.parametrize("codebook_size", [2, 1 << 16, (1 << 16) + 1])
def test_ids_come_back_exactly_and_only_where_they_were_stored(tmp_path, codebook_size):
    store = TokenStore(tmp_path / "ids", codebook_size)
    keys = [RecordKey(name, number) for name in ("ab", "ac") for number in (0, 2, 7)]
    for i, key in enumerate(keys):
        store.write(key, clip(i, codebook_size))
    for i, key in enumerate(keys):
        assert np.array_equal(read(TokenStore(tmp_path / "ids", codebook_size), key), clip(i, codebook_size))
    assert all(read(store, RecordKey(*key)) is None for key in [("ab", 1), ("ab", 8), ("ad", 0)])
    shutil.rmtree(tmp_path / "ids")  # while a run uses it
    assert read(store, keys[0]) is None
    store.write(keys[0], clip(0))
    assert read(store, keys[0]) is not None
    assert used_bytes(tmp_path) > used_bytes(tmp_path / "nothing") == 0


def test_consecutive_records_are_read_together_and_the_missing_ones_named(tmp_path):
    store = TokenStore(tmp_path, 16)
    for number in (2, 3, 5):
        store.write(RecordKey("ab", number), clip(number))
    ids = np.full((6, 5, 4, 4), -1)
    assert store.read(RecordKey("ab", 1), ids) == [0, 3, 5]  # 1, 4 and 6; 6 is beyond the file's end
    for i, number in enumerate(range(1, 7)):
        assert np.array_equal(ids[i], clip(number) if number in (2, 3, 5) else np.full((5, 4, 4), -1))


def test_whatever_a_killed_writer_left_is_encoded_again(tmp_path):
    store, key = TokenStore(tmp_path, 16), RecordKey("ab", 1)
    store.write(key, clip(0))
    path = tmp_path / "ab" / "ab.ids"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert read(store, key) is None
    for position in range(len(whole) // 2, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert read(store, key) is None
    path.write_bytes(whole[len(whole) // 2 :] * 2)  # the record of another clip
    assert read(store, RecordKey("ab", 0)) is None
    path.rename(path.with_name("abc.ids"))
    assert read(store, RecordKey("abc", 1)) is None


def write_and_check(dpath: Path, first: int) -> None:
    store = TokenStore(dpath, 16)
    for i in [*range(first, first + 60)] * 3:
        key = RecordKey(f"{i % 4:032x}", i % 80)
        assert (ids := read(store, key)) is None or np.array_equal(ids, clip(i % 80))
        store.write(key, clip(i % 80))


def test_several_processes_share_a_cache(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.starmap(write_and_check, [(tmp_path, first) for first in (0, 20, 40)])
    store = TokenStore(tmp_path, 16)
    assert all(np.array_equal(read(store, RecordKey(f"{i % 4:032x}", i)), clip(i)) for i in range(80))


def trained_by_two(cfg: GenieReduxConfig) -> str:
    torch.set_num_threads(1)
    return str(train(cfg))


@pytest.mark.slow
def test_two_training_processes_share_a_cache(root):
    cfg, states = world_config(root, batch_size=2), []
    for name, cached in (("without", False), ("cold", True), ("warm", True)):
        changed = replace(cfg, train=replace(cfg.train, wandb_name=name, enable_cache=cached))
        config = LaunchConfig(1, 1, 2, run_id=name, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
        states.append(load_model(Path(elastic_launch(config, trained_by_two)(changed)[0])).model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value) and torch.equal(states[2][key], value), key


# ---- limits and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["cache_max_gb", "No space left on device"])
def test_a_limit_or_a_full_disk_is_one_warning_and_training_continues(root, monkeypatch, caplog, tmp_path, reason):
    def full(fd, data, offset, write=os.pwrite):
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".ids"):
            raise OSError(28, reason)
        return write(fd, data, offset)

    cfg = world_config(root, cache_max_gb=4000 / 1e9, cache_dpath=str(tmp_path / "ids"))
    without = run(cfg, "without", enable_cache=False)
    if reason != "cache_max_gb":
        monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        assert_same(run(cfg, "cold"), without)
    assert caplog.text.count(reason) == 1
    size = sum(path.stat().st_blocks > 0 for path in (tmp_path / "ids").rglob("*.ids"))
    assert (0 < size <= 4000 // 168) if reason == "cache_max_gb" else size == 0
    assert_same(run(cfg, "warm"), without)


@pytest.mark.parametrize("problem", ["read-only", "missing", "a file"])
def test_a_cache_that_cannot_be_used_is_one_line(root, monkeypatch, problem):
    cfg = world_config(root, cache_dpath=str(root / "ids"))
    if problem == "read-only":

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("training.token_cache.write_atomically", refuse)  # root may write anywhere
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
