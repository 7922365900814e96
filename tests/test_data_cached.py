"""Cached token ids: training is what it is without them, and old ids are never served."""

import logging
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from data.data import WindowDataset, iterate_epochs, make_loader
from data.data_cached import CachedBatch, CachedWindowDataset, IdSource, IdStore, Place, Room, used_bytes
from data_generation.data.data import Environment, EpisodeError
from models.checkpoint import load_model, load_tokenizer
from models.tokenizer import Tokenizer
from tests.training_helpers import DATASET, save_fresh, tiny_config, write_dataset
from training import token_cache
from training.config import GenieReduxConfig
from training.main import evaluate, run_dpath, train
from training.tracker import read_metrics

SOURCE = IdSource("tokenizer", "cpu float32", 16, (4, 4), 5, 3)


def world_config(root: Path, model: str = "genie_redux_guided", **changes) -> GenieReduxConfig:
    """A world model on 56 clips (14 steps an epoch) with a cache, and a tokenizer with random weights."""
    cfg = tiny_config(root, model)
    cfg.data.seq_step = 3
    cfg.tokenizer_fpath = str(save_fresh(root / "tokenizer" / "model-7.pt", tiny_config(root)))
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


def count_encoded(monkeypatch) -> list[int]:
    """Number of clips of each call of the tokenizer's encoder from now on."""
    calls: list[int] = []
    real = Tokenizer.encode

    def encode(self, video):
        calls.append(len(video))
        return real(self, video)

    monkeypatch.setattr(Tokenizer, "encode", encode)
    return calls


def forbid_frames(monkeypatch) -> None:
    def read(*_):
        raise AssertionError("frames were read")

    monkeypatch.setattr(Environment, "read", read)


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "use_decoder_loss"),
    [("genie_redux_guided", False), ("genie_redux_guided", True), ("genie_redux", False)],
)
def test_training_with_cached_ids_equals_training_without(root, model, use_decoder_loss):
    cfg = world_config(root, model, use_decoder_loss=use_decoder_loss, validate_every=10)
    without = run(cfg, "without", enable_cache=False)
    assert_same(run(cfg, "cold"), without)  # the second epoch has every id
    assert_same(run(cfg, "warm"), without)


def test_a_warm_cache_reads_no_frames_and_encodes_nothing(root, monkeypatch):
    cfg = world_config(root)
    calls = count_encoded(monkeypatch)
    cold = run(cfg, "cold")
    assert sum(calls) == 56  # each clip once, in 20 steps of 4 clips
    forbid_frames(monkeypatch)
    assert_same(run(cfg, "warm"), cold)
    assert sum(calls) == 56


def test_worker_processes_find_the_ids_that_the_main_process_stored(root, monkeypatch):
    cfg = world_config(root, n_data_workers=2)
    without = run(cfg, "without", enable_cache=False)
    calls = count_encoded(monkeypatch)
    assert_same(run(cfg, "cold"), without)
    assert sum(calls) <= 56 + 24  # but for what workers had read ahead, the second epoch has every id
    forbid_frames(monkeypatch)
    assert_same(run(cfg, "warm"), without)


def test_resuming_with_a_cache_equals_never_having_stopped(root):
    cfg = world_config(root)
    once = run(cfg, "once", enable_cache=False)
    run(cfg, "twice", num_train_steps=9)
    assert_same(run(cfg, "twice", resume_ckpt="latest"), once)


def test_bf16_and_float32_do_not_share_ids(root, monkeypatch):
    cfg = world_config(root)
    calls = count_encoded(monkeypatch)
    run(cfg, "fp32")
    cfg.precision = "bf16"
    run(cfg, "bf16")
    assert sum(calls) == 2 * 56


def test_validation_loss_uses_cached_ids(root, monkeypatch):
    cfg = world_config(root, validate_every=10, num_train_steps=10)
    cold = run(cfg, "cold")
    calls = count_encoded(monkeypatch)
    assert_same(run(cfg, "warm"), cold)
    assert sum(calls) == cfg.train.n_total_samples  # the prime frames of what is sampled


# ---- never stale ----------------------------------------------------------------------------------------------------


def test_another_tokenizer_is_never_served_old_ids(root):
    cfg = world_config(root)
    run(cfg, "first")
    cfg.tokenizer_fpath = str(save_fresh(root / "other" / "model-7.pt", tiny_config(root), seed=2))
    assert_same(run(cfg, "second"), run(cfg, "without", enable_cache=False))


def test_a_tokenizer_overwritten_in_place_is_never_served_old_ids(root):
    cfg = world_config(root)
    run(cfg, "first")
    save_fresh(Path(cfg.tokenizer_fpath), tiny_config(root), seed=3)
    assert_same(run(cfg, "second"), run(cfg, "without", enable_cache=False))


def test_a_regenerated_dataset_is_never_served_old_ids(root):
    cfg = world_config(root)
    run(cfg, "first")
    write_dataset(root, seed=1)  # the same names and lengths, other frames
    assert_same(run(cfg, "second"), run(cfg, "without", enable_cache=False))


def test_a_grown_dataset_keeps_the_ids_that_it_has(root, monkeypatch):
    cfg = world_config(root)
    run(cfg, "first")
    write_dataset(root, sessions=20)
    calls = count_encoded(monkeypatch)
    run(cfg, "second", num_train_steps=200 // 4)
    assert 0 < sum(calls) <= 126 - 56  # 18 sessions of 7 clips, of which 56 were known


def test_every_part_of_the_encoder_counts_and_the_decoder_does_not(root):
    tokenizer = load_tokenizer(save_fresh(root / "t" / "model-7.pt", tiny_config(root)))
    before = token_cache.fingerprint(tokenizer)
    video = torch.rand(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = tokenizer.encode(video)
    for name, parameter in tokenizer.named_parameters():
        kept = parameter.data.clone()
        parameter.data += 0.5
        idle = name.startswith(("decoder.", "to_pixels."))
        assert (token_cache.fingerprint(tokenizer) == before) == idle, name
        if idle:
            assert torch.equal(tokenizer.encode(video), ids), name
        parameter.data = kept
    assert token_cache.fingerprint(tokenizer) == before
    tokenizer.config.heads += 1
    assert token_cache.fingerprint(tokenizer) != before


def test_a_clip_that_stands_in_for_a_damaged_one_is_not_stored_as_that_one(root, tmp_path):
    damaged = root / DATASET / "toy_square_v0.0.0" / "000000" / "000002.episode"
    whole = damaged.read_bytes()
    WindowDataset(root / DATASET, "train", 5, 3)  # writes the index
    windows = WindowDataset(root / DATASET, "train", 5, 3, on_bad_episode="skip")
    damaged.write_bytes(whole[:64] + bytes([whole[64] ^ 1]) + whole[65:])
    cached = CachedWindowDataset(windows, IdStore(tmp_path / "ids", SOURCE), all_frames=False)
    batch = cached.read(list(range(len(cached))))
    standing_in = [i for i, place in zip(batch.missing, batch.places, strict=True) if place is None]
    assert standing_in == list(range(14, 20))  # 7 windows per episode; the last lies behind the damaged chunk
    assert torch.equal(batch.frames[14:20], windows.read(list(range(14, 20))).frames)


# ---- the store ------------------------------------------------------------------------------------------------------


def clip(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 16, (5, 4, 4))


def read(store: IdStore, place: Place) -> np.ndarray | None:
    ids = np.full((5, 4, 4), -1)
    if store.read(place, ids):
        return ids
    assert (ids == -1).all()
    return None


def test_ids_come_back_exactly_and_only_where_they_were_stored(tmp_path):
    store = IdStore(tmp_path, SOURCE)
    places = [Place(f"{e:032x}", slot) for e in range(3) for slot in (0, 2, 7)]
    for i, place in enumerate(places):
        store.write(place, clip(i))
    for other in (store, IdStore(tmp_path, SOURCE)):
        for i, place in enumerate(places):
            assert np.array_equal(read(other, place), clip(i))
        assert read(other, Place(f"{0:032x}", 1)) is None  # a hole in the file
        assert read(other, Place(f"{0:032x}", 8)) is None
        assert read(other, Place(f"{9:032x}", 0)) is None
    assert read(IdStore(tmp_path, replace(SOURCE, arithmetic="cpu bfloat16")), places[0]) is None


@pytest.mark.parametrize("codebook_size", [2, 1 << 16, (1 << 16) + 1])
def test_the_largest_id_fits(tmp_path, codebook_size):
    store = IdStore(tmp_path, replace(SOURCE, codebook_size=codebook_size))
    ids = np.full((5, 4, 4), codebook_size - 1)
    store.write(Place("ab", 0), ids)
    assert np.array_equal(read(store, Place("ab", 0)), ids)


def test_whatever_a_killed_writer_left_is_encoded_again(tmp_path):
    store = IdStore(tmp_path, SOURCE)
    place = Place("ab", 1)
    store.write(place, clip(0))
    path = next(tmp_path.rglob("*.ids"))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert read(store, place) is None
    for position in range(store.record_size, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert read(store, place) is None
    store.write(place, clip(0))
    assert np.array_equal(read(store, place), clip(0))


def test_a_record_at_another_windows_place_is_not_taken_for_it(tmp_path):
    store = IdStore(tmp_path, SOURCE)
    store.write(Place("ab", 0), clip(0))
    path = next(tmp_path.rglob("*.ids"))
    path.write_bytes(path.read_bytes() * 2)
    path.with_name("abcd.ids").write_bytes(path.read_bytes())
    assert read(store, Place("ab", 0)) is not None
    assert read(store, Place("ab", 1)) is None
    assert read(store, Place("abcd", 0)) is None


def write_and_check(folder: Path, first: int) -> None:
    store = IdStore(folder, SOURCE)
    for turn in range(3):
        for i in range(first, first + 60):
            ids = read(store, Place(f"{i % 4:032x}", i % 80))
            assert ids is None or np.array_equal(ids, clip(i % 80)), turn
            store.write(Place(f"{i % 4:032x}", i % 80), clip(i % 80))


def test_several_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_and_check, args=(tmp_path, first)) for first in (0, 20, 40)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = IdStore(tmp_path, SOURCE)
    assert all(np.array_equal(read(store, Place(f"{i % 4:032x}", i)), clip(i)) for i in range(80))


def trained_by_two(cfg: GenieReduxConfig) -> str:
    return str(train(cfg))


@pytest.mark.slow
def test_two_training_processes_share_a_cache(root):
    cfg, states = world_config(root, batch_size=2), []
    for name, cached in (("without", False), ("cold", True), ("warm", True)):
        changed = replace(cfg, train=replace(cfg.train, wandb_name=name, enable_cache=cached))
        config = LaunchConfig(1, 1, 2, run_id=name, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
        states.append(load_model(Path(elastic_launch(config, trained_by_two)(changed)[0])).model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key
        assert torch.equal(states[2][key], value), key


# ---- limits and errors ----------------------------------------------------------------------------------------------


def test_the_limit_is_kept_and_training_goes_on(root, caplog, tmp_path):
    limit = 4000  # bytes: 23 clips of 168 bytes
    cfg = world_config(root, cache_max_gb=limit / 1e9, cache_dpath=str(tmp_path / "ids"))
    without = run(cfg, "without", enable_cache=False)
    with caplog.at_level(logging.WARNING):
        assert_same(run(cfg, "cold"), without)
    assert caplog.text.count("train.cache_max_gb") == 1
    stored = sum(path.stat().st_size > 0 for path in (tmp_path / "ids").rglob("*.ids"))
    assert 0 < stored <= limit // 168
    caplog.clear()
    assert_same(run(cfg, "warm"), without)


def test_two_stores_of_a_process_share_its_room(tmp_path):
    room = Room(2 * 168 + 100)
    stores = [IdStore(tmp_path, replace(SOURCE, seq_step=step), room) for step in (1, 2)]
    for i in range(4):
        stores[i % 2].write(Place("ab", i), clip(i))
    assert [read(stores[i % 2], Place("ab", i)) is not None for i in range(4)] == [True, True, False, False]


def test_a_full_disk_is_one_warning_and_training_goes_on(root, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    cfg = world_config(root)
    without = run(cfg, "without", enable_cache=False)
    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        assert_same(run(cfg, "full"), without)
    assert caplog.text.count("No space left on device") == 1


def test_a_cache_deleted_during_training_is_made_again(tmp_path):
    store = IdStore(tmp_path / "ids", SOURCE)
    store.write(Place("ab", 0), clip(0))
    for path in sorted((tmp_path / "ids").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert read(store, Place("ab", 0)) is None
    store.write(Place("ab", 0), clip(0))
    assert np.array_equal(read(store, Place("ab", 0)), clip(0))


@pytest.mark.parametrize("problem", ["read-only", "missing", "a file", "negative"])
def test_a_cache_that_cannot_be_used_is_one_line(root, monkeypatch, problem):
    cfg = world_config(root, cache_dpath=str(root / "ids"))
    if problem == "read-only":

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("data.data_cached.write_atomically", refuse)  # root may write anywhere
    elif problem == "missing":
        cfg.train.cache_dpath = str(root / "not" / "there")
    elif problem == "a file":
        (root / "ids").write_text("")
    else:
        cfg.train.cache_max_gb = -1
    with pytest.raises((ValueError, FileNotFoundError), match=r"train\.cache_") as error:
        train(cfg)
    assert "\n" not in str(error.value)


def test_damage_in_an_episode_is_one_line_with_a_cache_too(root, tmp_path):
    windows = WindowDataset(root / DATASET, "train", 5, 3)
    damaged = root / DATASET / "toy_square_v0.0.0" / "000000" / "000002.episode"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:64] + bytes([whole[64] ^ 1]) + whole[65:])
    cached = CachedWindowDataset(windows, IdStore(tmp_path / "ids", SOURCE), all_frames=False)
    for n_workers in (0, 1):
        with pytest.raises(EpisodeError, match=r"damaged.*data\.on_bad_episode=skip") as error:
            list(make_loader(cached, 4, n_workers=n_workers))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", ["tokenizer", "lam"])
def test_a_model_without_token_ids_trains_and_says_that_nothing_is_cached(root, caplog, model):
    cfg = tiny_config(root, model)
    cfg.train.enable_cache = True
    train(cfg)
    assert "train.enable_cache has no effect" in caplog.text
    assert not (Path(cfg.train.save_root_dpath) / "token_ids").exists()


def test_evaluation_says_that_its_key_has_no_effect(root, caplog):
    cfg = tiny_config(root)
    cfg.eval.enable_cache = True
    cfg.eval.model_fpath = str(save_fresh(root / "tokenizer" / "model-7.pt", cfg))
    evaluate(cfg)
    assert "eval.enable_cache has no effect" in caplog.text


# ---- batches --------------------------------------------------------------------------------------------------------


def test_batches_are_the_windows_in_the_same_order(root, tmp_path):
    windows = WindowDataset(root / DATASET, "train", 5, 3)
    store = IdStore(tmp_path / "ids", SOURCE)
    for all_frames in (False, True):
        cached = CachedWindowDataset(windows, store, all_frames)
        plain = iterate_epochs(make_loader(windows, 8, seed=3))
        for ours, theirs in zip(make_loader(cached, 8, seed=3), plain, strict=False):
            assert isinstance(ours, CachedBatch)
            assert torch.equal(ours.actions, theirs.actions) and torch.equal(ours.env, theirs.env)
            assert torch.equal(ours.missing_frames(), theirs.frames[ours.missing])
            for row, place in zip(ours.missing, ours.places, strict=True):
                if row % 2 and place is not None:
                    store.write(place, clip(row))
    assert used_bytes(tmp_path / "ids") > 0
    assert used_bytes(tmp_path / "nothing") == 0
