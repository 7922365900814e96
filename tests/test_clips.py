"""Training clips: what one holds, splits, mixing, an order that is a pure function of (seed, epoch, position)."""

import itertools
import logging
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.data import Batch, ClipDataset, ClipLoader, ClipSampler, iterate_epochs, make_loader
from data.sampler import permute
from data_generation.data.data import DatasetInfo, EpisodeError, EpisodeMeta, EpisodeWriter, episode_path
from data_generation.data.errors import FieldError
from data_generation.data.number_ranges import NumberRanges, as_ranges

SHAPE = (3, 8, 8)
ACTIONS = ["A", "B", "C"]


def pixel_of(env: int, session: int, time: int) -> np.ndarray:
    """A frame that says where it comes from."""
    frame = np.zeros(SHAPE, np.uint8)
    frame[0], frame[1], frame[2] = env, session, time
    return frame


def make_env(dpath: Path, env: int, lengths: list[int], actions: list[str] = ACTIONS) -> None:
    """One episode of `lengths[s]` frames for session s; the action after frame t is (t + s) % 3."""
    DatasetInfo(dpath.name, "Pong", actions, SHAPE).save(dpath)
    for session, length in enumerate(lengths):
        with EpisodeWriter(episode_path(dpath, 0, session), EpisodeMeta(session=session), SHAPE) as writer:
            writer.start(pixel_of(env, session, 0))
            for t in range(1, length):
                writer.step((t - 1 + session) % 3, 1.0, False, False, {}, pixel_of(env, session, t))
            writer.commit()


@pytest.fixture(scope="module")
def dataset_dpath(tmp_path_factory) -> Path:
    """Three environments of unequal size: 10, 3 and 10 sessions."""
    root = tmp_path_factory.mktemp("clips") / "retro_act_v0.0.0"
    make_env(root / "a", 0, [40, 50, 7, 33, 40, 40, 40, 40, 40, 40])
    make_env(root / "b", 1, [60, 30, 30])
    make_env(root / "c", 2, [20] * 10)
    return root


def places(batch: Batch) -> list[tuple[int, int, int]]:
    """(environment, session, time) of the first frame of each clip."""
    first = batch.frames[:, 0, :, 0, 0]
    return [tuple(clip) for clip in first.tolist()]


def in_order(dataset: ClipDataset, batch_size: int, **options) -> ClipLoader:
    """A loader of all clips in the dataset's order."""
    indices = list(range(len(dataset)))
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    return ClipLoader(dataset, batch_sampler=batches, **options)


def draw(loader, count: int) -> list[tuple[int, int, int]]:
    return [place for batch in itertools.islice(loader, count) for place in places(batch)]


# --- what a clip holds


@pytest.mark.parametrize(("num_frames", "seq_step"), [(1, 1), (2, 3), (16, 1), (16, 5), (18, 16), (20, 1)])
def test_clips_never_cross_episodes_and_hold_the_actions_between_their_frames(dataset_dpath, num_frames, seq_step):
    dataset = ClipDataset(dataset_dpath, "all", num_frames, seq_step)
    starts: dict[tuple[int, int], list[int]] = {}
    for i in range(len(dataset)):
        frames, actions = dataset[i]
        assert frames.dtype == torch.uint8
        assert (frames.shape, actions.shape) == ((num_frames, *SHAPE), (num_frames - 1,))
        env_id, session, time = frames[0, :, 0, 0].tolist()
        expected = np.stack([pixel_of(env_id, session, time + t) for t in range(num_frames)])
        assert np.array_equal(frames.numpy(), expected)
        assert actions.tolist() == [(time + t + session) % 3 for t in range(num_frames - 1)]
        starts.setdefault((env_id, session), []).append(time)
    lengths = {0: [40, 50, 7, 33, 40, 40, 40, 40, 40, 40], 1: [60, 30, 30], 2: [20] * 10}
    for env_id, sessions in lengths.items():
        for session, length in enumerate(sessions):
            assert starts.get((env_id, session), []) == list(range(0, length - num_frames + 1, seq_step))


def test_splits_share_no_session_and_cover_all(dataset_dpath):
    seen = {
        split: {place[:2] for place in draw(in_order(ClipDataset(dataset_dpath, split, 5), 16), 10_000)}
        for split in ("train", "validation", "test", "all")
    }
    parts = [seen[split] for split in ("train", "validation", "test")]
    assert sum(len(part) for part in parts) == len(seen["all"]) == 23
    assert set.union(*parts) == seen["all"]
    assert {place for place in seen["test"] if place[0] == 0} == {(0, 9)}


def test_n_envs_takes_the_first_by_name_and_facts_come_from_the_info(dataset_dpath):
    dataset = ClipDataset(dataset_dpath, "train", 16, n_envs=2)
    assert dataset.environments == ["a", "b"]
    assert dataset.action_names == ACTIONS
    assert dataset.frame_shape == SHAPE
    assert ClipDataset(dataset_dpath / "c", "train", 16).environments == ["c"]


# --- errors


def test_environments_that_do_not_fit_together_are_named(tmp_path):
    make_env(tmp_path / "a", 0, [20])
    make_env(tmp_path / "b", 1, [20], actions=["A", "X", "C"])
    with pytest.raises(ValueError, match=r"b' has action_names \['A', 'X', 'C'\], not \['A', 'B', 'C'\] as 'a': "):
        ClipDataset(tmp_path, "train", 16)
    assert ClipDataset(tmp_path, "train", 16, n_envs=1).environments == ["a"]


def test_empty_splits_say_what_is_missing(tmp_path, caplog):
    make_env(tmp_path / "a", 0, [20])
    with pytest.raises(
        ValueError, match=r"split 'validation' of dataset '.*' is empty: it needs 2 sessions and has 1.*n_s"
    ):
        ClipDataset(tmp_path, "validation", 16)
    with pytest.raises(
        ValueError, match=r"^num_frames=21: .*no clip of this length, its longest episode has 20 frames; lower"
    ):
        ClipDataset(tmp_path, "train", 21)
    with pytest.raises(ValueError, match="split=valid: is unknown"):
        ClipDataset(tmp_path, "valid", 16)
    make_env(tmp_path / "b", 1, [20, 20])
    with caplog.at_level(logging.WARNING):
        assert ClipDataset(tmp_path, "validation", 16).environments == ["b"]
    assert "no 'validation' clips in 1 of 2 environments: ['a']" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"run 'python run\.py generate"):
        ClipDataset(tmp_path / "none", "train", 16)


def damage_chunk(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_damaged_episode_is_a_one_line_error_or_replaced_with_a_warning(tmp_path, n_workers, caplog):
    make_env(tmp_path / "a", 0, [40] * 4)
    path = episode_path(tmp_path / "a", 0, 1)
    damage_chunk(path, 64 + 4)  # in the pixels: found when the clip is read
    loader = in_order(ClipDataset(tmp_path, "all", 16), 8, num_workers=n_workers)
    with pytest.raises(EpisodeError, match=r"000001\.episode' is damaged.*on_bad_episode=skip") as error:
        list(loader)
    assert "\n" not in str(error.value)
    dataset = ClipDataset(tmp_path, "all", 16, on_bad_episode="skip")
    found = draw(in_order(dataset, 8, num_workers=n_workers), 100)
    # Clips that begin in the damaged first chunk come from the next episode instead, at the same time.
    expected = [(0, 2 if session == 1 and time < 16 else session, time) for session in range(4) for time in range(25)]
    assert found == expected
    if n_workers == 0:
        assert "000001.episode" in caplog.text


def test_an_episode_that_disappears_is_a_one_line_error(tmp_path):
    make_env(tmp_path / "a", 0, [20] * 2)
    dataset = ClipDataset(tmp_path, "all", 16)
    episode_path(tmp_path / "a", 0, 1).unlink()
    dataset[0]
    with pytest.raises(EpisodeError, match="has disappeared"):
        dataset[len(dataset) - 1]


# --- order


@settings(max_examples=60)
@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(size, key):
    assert sorted(permute(np.arange(size), size, np.uint64(key))) == list(range(size))


def test_permutations_look_random():
    order = permute(np.arange(10_000), 10_000, 7)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
    assert (order == permute(np.arange(10_000), 10_000, 8)).sum() < 20


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(9, 50), min_size=1, max_size=6), seed=st.integers(0, 99), batch=st.integers(1, 9))
def test_environments_are_drawn_equally_often_and_each_without_repetition(sizes, seed, batch):
    sampler = ClipSampler(sizes, batch, seed)
    order = [index for indices in sampler for index in indices]
    assert len(order) == sum(sizes) // batch * batch
    env = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.bincount(env[order], minlength=len(sizes))
    assert counts.max() - counts.min() <= 1
    first = np.cumsum(sizes) - sizes
    for k, size in enumerate(sizes):
        drawn = [index - first[k] for index in order if env[index] == k]
        for turn in range(0, len(drawn) - size + 1, size):
            assert sorted(drawn[turn : turn + size]) == list(range(size))


def test_sampling_is_equal_for_any_number_of_workers(dataset_dpath):
    dataset = ClipDataset(dataset_dpath, "train", 16)
    orders = [draw(make_loader(dataset, 4, seed=5, n_workers=n), 30) for n in (0, 1, 2)]
    assert orders[0] == orders[1] == orders[2]
    assert orders[0] != draw(make_loader(dataset, 4, seed=6), 30)


def test_fewer_sessions_than_workers(tmp_path):
    make_env(tmp_path / "a", 0, [17])
    dataset = ClipDataset(tmp_path, "train", 16)
    batches = list(make_loader(dataset, 1, n_workers=3))
    assert sorted(place for batch in batches for place in places(batch)) == [(0, 0, 0), (0, 0, 1)]


def test_spawned_workers_read_the_same(dataset_dpath):
    dataset = ClipDataset(dataset_dpath, "train", 16)
    dataset[0]  # opens files, which must not travel
    loader = make_loader(dataset, 4, n_workers=1)
    loader.multiprocessing_context = multiprocessing.get_context("spawn")
    assert draw(loader, 3) == draw(make_loader(dataset, 4), 3)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[17][0], dataset[17][0])


def test_epochs_differ_and_repeat_exactly(dataset_dpath):
    dataset = ClipDataset(dataset_dpath, "train", 16)
    loader = make_loader(dataset, 8, seed=1)
    first = draw(loader, 1000)
    loader.batch_sampler.set_epoch(1)
    second = draw(loader, 1000)
    loader.batch_sampler.set_epoch(0)
    assert draw(loader, 1000) == first
    assert first != second
    assert len(first) == len(second) == len(dataset) // 8 * 8


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("consumed", [1, 7, 36, 37, 50, 80])
def test_resuming_equals_never_having_stopped(dataset_dpath, n_workers, consumed):
    dataset = ClipDataset(dataset_dpath, "train", 16)
    batch_size = 7
    whole = make_loader(dataset, batch_size, seed=2)
    batches = [places(batch) for batch in itertools.islice(iterate_epochs(whole), 90)]
    resumed = make_loader(dataset, batch_size, seed=2, start_sample=consumed * batch_size, n_workers=n_workers)
    count = min(6, 90 - consumed)
    again = [places(batch) for batch in itertools.islice(iterate_epochs(resumed), count)]
    assert again == batches[consumed : consumed + count]


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    batch=st.integers(1, 5),
    world=st.integers(1, 4),
    steps=st.integers(0, 5),
)
def test_ranks_share_each_epoch_without_overlap(sizes, batch, world, steps):
    if sum(sizes) < batch * world:
        with pytest.raises(FieldError, match=r"^batch_size=.*fewer than one batch"):
            ClipSampler(sizes, batch, world_size=world)
        return
    start = steps * batch * world
    single = ClipSampler(sizes, batch * world, 4, start_sample=start)
    ranks = [ClipSampler(sizes, batch, 4, rank, world, start) for rank in range(world)]
    lists = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(batches) for batches in lists]
    together = [list(itertools.chain(*step)) for step in zip(*lists, strict=True)]
    assert together == list(single)


def drawn_from(samples: int, steps: int, sizes: list[int], batch: int, world: int) -> tuple[list[list[int]], int]:
    """The next batches of all ranks after `samples`, and the samples consumed then, as training counts them."""
    ranks = [ClipSampler(sizes, batch, 4, rank, world, samples) for rank in range(world)]
    batches: list[list[int]] = []
    while len(batches) < steps:
        lists = [list(rank) for rank in ranks]
        batches += [list(itertools.chain(*step)) for step in zip(*lists, strict=True)]
        for rank in ranks:
            rank.set_epoch(rank.epoch + 1)
    for _ in range(steps):
        samples = ranks[0].samples_after(samples)
    return batches[:steps], samples


@settings(max_examples=100)
@given(
    sizes=st.lists(st.integers(8, 20), min_size=1, max_size=3),
    batches=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    worlds=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    steps=st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 12)),
)
def test_with_another_batch_size_no_batch_is_cut_and_resuming_again_changes_nothing(sizes, batches, worlds, steps):
    _, samples = drawn_from(0, steps[0], sizes, batches[0], worlds[0])
    assert samples == steps[0] * batches[0] * worlds[0]
    once, end = drawn_from(samples, steps[1] + steps[2], sizes, batches[1], worlds[1])
    assert {len(clips) for clips in once} == {batches[1] * worlds[1]}
    first, between = drawn_from(samples, steps[1], sizes, batches[1], worlds[1])
    second, again = drawn_from(between, steps[2], sizes, batches[1], worlds[1])
    assert (first + second, again) == (once, end)


def test_clips_are_in_time_order(dataset_dpath):
    order = draw(in_order(ClipDataset(dataset_dpath, "all", 16), 10), 10_000)
    assert order == sorted(order)
    assert {place[0] for place in order} == {0, 1, 2}


def test_millions_of_clips_cost_no_memory_and_no_start():
    sampler = ClipSampler([10**9, 10**6], 16, seed=1, start_sample=10**8)
    indices = next(iter(sampler))
    assert len(indices) == 16
    assert all(0 <= index < 10**9 + 10**6 for index in indices)


def test_batches_move_and_pin(dataset_dpath):
    batch = next(iter(make_loader(ClipDataset(dataset_dpath, "train", 16), 3)))
    assert len(batch) == 3
    assert batch.frames.shape == (3, 16, *SHAPE)
    assert batch.actions.shape == (3, 15)
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.frames, batch.frames)
    assert batch.actions.dtype == torch.int64


# ---- clips that are not there ---------------------------------------------------------------------------------------


def test_no_clip_speaks_of_the_split_alone(tmp_path):
    """Sessions 0 to 7 are train, 8 is validation, 9 is test."""
    make_env(tmp_path / "env", 0, [9] * 8 + [61, 5])
    for split, longest in (("train", 9), ("test", 5), ("all", 61)):
        with pytest.raises(FieldError, match=f"num_frames=70: split '{split}'.* longest episode has {longest} frames"):
            ClipDataset(tmp_path, split, num_frames=70)


def test_episodes_shorter_than_a_clip_are_announced(tmp_path, caplog):
    make_env(tmp_path / "a", 0, [30, 4, 30, 6])
    make_env(tmp_path / "b", 1, [30, 30])
    ClipDataset(tmp_path, "all", num_frames=16)
    assert "2 of 6 'all' episodes (7.7 % of the frames) are shorter than num_frames=16" in caplog.text
    caplog.clear()
    ClipDataset(tmp_path, "all", num_frames=4)
    assert not caplog.text


def test_levels_are_the_games_of_the_splits_episodes(dataset_dpath):
    assert ClipDataset(dataset_dpath, "all", 16).levels == {"Pong": "0"}


@pytest.mark.parametrize(("skips", "expected"), [((4, 4), 4), ((4, 2), None), ((4, None), None), ((None, None), None)])
def test_a_frame_skip_is_that_of_all_environments(tmp_path, skips, expected):
    for env, skip in enumerate(skips):
        dpath = tmp_path / str(env)
        make_env(dpath, env, [20])
        connector = {} if skip is None else {"n_skip_frames": skip}
        DatasetInfo(dpath.name, "Pong", ACTIONS, SHAPE, connector).save(dpath)
    assert ClipDataset(tmp_path, "all", 16).n_skip_frames == expected


def test_numbers_become_ranges_and_back():
    text = as_ranges([3, 0, 1, 2, 7, 9, 8, 15])
    assert text == "0-3, 7-9, 15"
    numbers = NumberRanges(text)
    assert [number for number in range(20) if number in numbers] == [0, 1, 2, 3, 7, 8, 9, 15]
    assert not any(number in NumberRanges("x, -3, 1-, ") for number in range(5))
