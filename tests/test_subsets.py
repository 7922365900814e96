"""`python run.py data merge|split|sample|stats`: the episodes of others, byte for byte."""

import json
import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.data import ClipDataset
from data_generation.cli import main
from data_generation.data.data import Environment, EpisodeMeta, EpisodeWriter, episode_path, list_environments
from data_generation.data.errors import UserError
from data_generation.data.info import DatasetInfo
from data_generation.data.lock import FolderInUseError, locked
from data_generation.data.subsets import statistics
from tests.episode_helpers import SHAPE, make_environment, write_episode


@pytest.fixture
def dataset(tmp_path) -> Path:
    for name in ("a", "b"):
        make_environment(tmp_path / "games" / name, 6, num_frames=20)
    return tmp_path / "games"


def contents(dataset: Path) -> dict[str, bytes]:
    return {str(path.relative_to(dataset)): path.read_bytes() for path in dataset.rglob("*.episode")}


def test_merged_parts_of_a_split_are_the_dataset(dataset, tmp_path, capsys):
    assert main(["split", str(dataset), "--to", str(tmp_path / "parts"), "--parts", "4"]) == 0
    parts = sorted((tmp_path / "parts").iterdir())
    assert [part.name for part in parts] == [f"games_part{k}" for k in range(4)]
    assert sum(len(contents(part)) for part in parts) == 12
    for _ in range(2):
        assert main(["merge", *map(str, parts), "--to", str(tmp_path / "all")]) == 0
    assert "0 episodes added (12 were there already)" in capsys.readouterr().out
    assert contents(tmp_path / "all") == contents(dataset)
    assert main(["check", str(tmp_path / "all")]) == 0


def test_splits_are_those_that_training_makes(dataset, tmp_path):
    assert main(["split", str(dataset), "--to", str(tmp_path / "parts")]) == 0
    sessions = {
        part.name.removeprefix("games_"): Environment(list_environments(part)[1]).sessions.tolist()
        for part in (tmp_path / "parts").iterdir()
    }
    assert sessions == {"train": [0, 1, 2, 3], "validation": [4], "test": [5]}


def test_a_sample_is_random_and_the_same_again(dataset, tmp_path):
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        arguments = ["--to", str(tmp_path / name), "--episodes", "5", "--seed", str(seed)]
        assert main(["sample", str(dataset), *arguments]) == 0
    x, y, z = (contents(tmp_path / name) for name in "xyz")
    assert x == y
    assert len(x) == len(z) == 5
    assert x.keys() != z.keys()
    assert x.items() <= contents(dataset).items()
    with pytest.raises(UserError, match=r"^--episodes=13: .* has 12; lower it"):
        main(["sample", str(dataset), "--to", str(tmp_path / "w"), "--episodes", "13"])


def test_a_second_cut_in_the_same_folder_mixes_nothing(dataset, tmp_path):
    def run(*arguments: object) -> None:
        main([str(argument) for argument in arguments])

    def check_refused(*arguments: object) -> None:
        before = contents(tmp_path)
        with pytest.raises(UserError, match="holds other episodes than these: name another folder"):
            run(*arguments)
        assert contents(tmp_path) == before

    parts, some = ("--to", tmp_path / "parts"), ("--to", tmp_path / "some", "--episodes")
    split, sample = ("split", dataset, *parts), ("sample", dataset, *some)
    for arguments in (split, (*split, "--parts", 3), (*sample, 3)):
        run(*arguments)
    for arguments in ((*split, "--parts", 2), (*split, "--parts", 4), (*sample, 3, "--seed", 1), (*sample, 2)):
        check_refused(*arguments)
    for session in range(6, 12):
        write_episode(dataset / "b", session, num_frames=20, seed=session)
    for arguments in (split, (*split, "--parts", 3)):
        check_refused(*arguments)


def test_an_interrupted_cut_is_completed(dataset, tmp_path):
    for arguments in (["split", "--parts", "3"], ["split"], ["sample", "--episodes", "5"]):
        command = [arguments[0], str(dataset), "--to", str(tmp_path / "x"), *arguments[1:]]
        main(command)
        whole = contents(tmp_path / "x")
        for lost in sorted((tmp_path / "x").rglob("*.episode"))[::2]:
            lost.unlink()
        main(command)
        assert contents(tmp_path / "x") == whole
        shutil.rmtree(tmp_path / "x")


def test_an_environment_folder_gets_no_environments(dataset, tmp_path):
    before = contents(tmp_path)
    for arguments in (["merge", str(dataset)], ["sample", str(dataset), "--episodes", "2"]):
        with pytest.raises(UserError, match=r"^--to=.*/b: is an environment folder; name the dataset's folder"):
            main([*arguments, "--to", str(dataset / "b")])
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", [["merge"], ["split"], ["sample", "--episodes", "2"]], ids=str)
def test_a_dataset_folder_never_becomes_an_environment(tmp_path, command):
    """The environment has the name of a dataset in the target."""
    source = make_environment(tmp_path / "source" / "games", 2, num_frames=20)
    target = tmp_path / "all" / "games_train" if command == ["split"] else tmp_path / "all"
    make_environment(target / "games" / "a", 2, num_frames=20)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="is a dataset folder, not an environment's: name another folder by --to"):
        main([command[0], str(source), "--to", str(tmp_path / "all"), *command[1:]])
    assert contents(tmp_path) == before
    assert [path.name for path in list_environments(target / "games")] == ["a"]


def test_datasets_that_do_not_fit_are_kept_apart(dataset, tmp_path):
    target = tmp_path / "all"
    assert main(["merge", str(dataset), "--to", str(target)]) == 0
    before = contents(target)
    other = make_environment(tmp_path / "other" / "a", 1, num_frames=20)
    write_episode(other, 0, seed=9)
    with pytest.raises(UserError, match="are different episodes: keep the datasets apart"):
        main(["merge", str(tmp_path / "other"), "--to", str(target)])
    DatasetInfo("a", "Pong", ["A", "B", "C"], SHAPE, generator={"seed": 1}).save(other)
    with pytest.raises(UserError, match="was made with other settings"):
        main(["merge", str(tmp_path / "other"), "--to", str(target)])
    DatasetInfo("a", "Pong", ["A", "B", "C", "D"], SHAPE).save(other)
    with pytest.raises(UserError, match=r"has action_names .*: keep them apart"):
        main(["merge", str(dataset), str(tmp_path / "other"), "--to", str(target)])
    assert contents(target) == before


@pytest.mark.parametrize("difference", ["episode", "settings", "sources"])
def test_a_refused_merge_changes_nothing_of_the_environments_that_would_fit(dataset, tmp_path, difference):
    """The second environment does not; or two sources do not fit each other."""
    other, target = tmp_path / "other", tmp_path / "all"
    for name in ("a", "b"):
        make_environment(other / name, 8, num_frames=20)
    if difference == "settings":
        DatasetInfo("b", "Pong", ["A", "B", "C"], SHAPE, generator={"seed": 1}).save(other / "b")
    else:
        write_episode(other / "b", 5, seed=9)
    if difference != "sources":
        assert main(["merge", str(dataset), "--to", str(target)]) == 0
    before = contents(tmp_path)
    sources = [dataset, other] if difference == "sources" else [other]
    with pytest.raises(UserError, match=r"keep (the datasets|them) apart"):
        main(["merge", *map(str, sources), "--to", str(target)])
    assert contents(tmp_path) == before
    assert target.exists() == (difference != "sources")


def test_a_cut_that_finds_other_episodes_changes_nothing(dataset, tmp_path):
    for command in (["split"], ["sample", "--episodes", "12"]):
        target = tmp_path / command[0]
        folder = target / "games_test" if command == ["split"] else target
        make_environment(folder / "b", 0)
        write_episode(folder / "b", 5, seed=9)
        before = contents(tmp_path)
        with pytest.raises(UserError, match="are different episodes"):
            main([command[0], str(dataset), "--to", str(target), *command[1:]])
        assert contents(tmp_path) == before


@pytest.mark.parametrize("command", [["merge"], ["split", "--parts", "1"], ["sample", "--episodes", "12"]], ids=str)
def test_nothing_is_put_where_another_command_writes(dataset, tmp_path, command):
    folder = tmp_path / "all" / ("games_part0" if command[0] == "split" else "")
    arguments = [command[0], str(dataset), "--to", str(tmp_path / "all"), *command[1:]]
    with locked(folder / "a", "wait"):
        with pytest.raises(FolderInUseError, match=r"a' is in use by .*: wait for it, or stop it"):
            main(arguments)
        assert not contents(tmp_path / "all")
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_names": ["A", "B", "D"]}, r"has action_names \['A', 'B', 'D'\], not \['A', 'B', 'C'\]"),
        ({"action_names": []}, r"has action_names no actions, not \['A', 'B', 'C'\]"),
        ({"frame_shape": (3, 16, 16)}, r"has frame_shape \(3, 16, 16\), not \(3, 8, 10\)"),
        ({"connector": {"roi_annotation_fpath": "heroes.csv"}}, "has roi_table heroes.csv, not whole frames"),
    ],
)
def test_what_training_refuses_is_neither_merged_nor_approved(dataset, tmp_path, capsys, changes, message):
    other = tmp_path / "other" / "c"
    info = replace(DatasetInfo.load(dataset / "a"), name="c", **changes)
    info.save(other)
    for sources, target in (([dataset, other.parent], tmp_path / "all"), ([other.parent], dataset)):
        with pytest.raises(UserError, match=r"c' " + message if target != dataset else "keep them apart"):
            main(["merge", *map(str, sources), "--to", str(target)])
    assert not (tmp_path / "all").exists() and not (dataset / "c").exists()
    info.save(dataset / "c")
    assert main(["check", str(dataset)]) == 1
    assert re.search(r"c' " + message, capsys.readouterr().out)
    with pytest.raises(UserError, match=r"c' " + message):
        ClipDataset(dataset, "train", 4)


@pytest.mark.parametrize(
    "command",
    [
        ["merge", "--to", "x"],
        ["split", "--to", "x"],
        ["sample", "--to", "x", "--episodes", "2"],
        ["stats"],
        ["export", "--to", "x", "--format", "lerobot"],
    ],
)
def test_a_bad_episode_is_one_line_with_a_remedy_that_the_command_has(dataset, monkeypatch, command):
    monkeypatch.chdir(dataset.parent)
    paths = [episode_path(dataset / "a", 0, session) for session in (1, 3)]
    for path in paths:
        path.write_bytes(b"")
    check = re.escape(f"(and 1 more: 'python run.py data check {dataset / 'a'}' names them)")
    with pytest.raises(UserError, match=rf"000001.episode' is .*: delete it and generate it again {check}$"):
        main([command[0], str(dataset), *command[1:]])
    assert not Path("x").exists()
    assert main(["check", str(dataset / "a")]) == 1
    for path in paths:
        path.unlink()
    assert main(["merge", str(dataset), "--to", "x"]) == 0


def test_statistics_are_of_all_episodes(dataset, capsys):
    assert main(["stats", str(dataset), "--frames", "200", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["environments"], values["episodes"], values["frames"]) == (2, 12, 240)
    assert values["frames of an episode"]["median"] == 20
    assert sum(values["actions"].values()) == 228
    # Noise.
    assert np.allclose(values["mean of the channels"], 127.5, atol=3)
    assert np.allclose(values["deviation of the channels"], 73.9, atol=3)
    assert values["pixels that change visibly"] > 0.99
    assert main(["stats", str(episode_path(dataset / "a", 0, 0).parents[1])]) == 0
    assert "reward of an episode" in capsys.readouterr().out


def write_grey_episode(env_dpath: Path, session: int, greys: list[int], shape: tuple[int, int, int] = SHAPE) -> None:
    """Frames of one grey each."""
    DatasetInfo(env_dpath.name, "Pong", ["A"], shape).save(env_dpath)
    with EpisodeWriter(episode_path(env_dpath, 0, session), EpisodeMeta(session=session), shape) as writer:
        writer.start(np.full(shape, greys[0], np.uint8))
        for grey in greys[1:]:
            writer.step(0, 0.0, False, False, {}, np.full(shape, grey, np.uint8))
        writer.commit()


def test_statistics_of_pixels_weigh_episodes_by_their_length(tmp_path):
    for session in range(9):
        write_grey_episode(tmp_path / "games" / "a", session, [0, 0])
    write_grey_episode(tmp_path / "games" / "a", 9, [200] * 400)
    assert statistics(tmp_path / "games", 1000)["mean of the channels"] == pytest.approx([196] * 3, abs=3)


def test_statistics_of_pixels_are_those_of_the_pairs(tmp_path):
    """Environments with frames of two sizes, and one pair of frames in each."""
    write_grey_episode(tmp_path / "games" / "a", 0, [10, 30])
    write_grey_episode(tmp_path / "games" / "b", 0, [50, 50], shape=(3, 16, 20))
    values = statistics(tmp_path / "games", 8)
    pixels = np.repeat([10, 30, 50], [80, 80, 640])
    assert values["mean of the channels"] == pytest.approx([pixels.mean()] * 3, abs=0.01)
    assert values["deviation of the channels"] == pytest.approx([pixels.std()] * 3, abs=0.01)
    assert values["pixels that change visibly"] == pytest.approx(80 / 400)
    assert values["frames that repeat the one before"] == 0.5
    write_grey_episode(tmp_path / "games" / "c", 0, [1, 2], shape=(1, 8, 10))
    with pytest.raises(UserError, match=r"games' has frames of \[1, 3\] channels: run 'python run.py data stats' for"):
        statistics(tmp_path / "games", 8)


def test_statistics_hold_one_pair_of_frames_at_a_time(dataset):
    statistics(dataset, 2)
    tracemalloc.start()
    statistics(dataset, 2000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # As floats all of them take 3.8 MB.
    assert peak < 1_000_000
