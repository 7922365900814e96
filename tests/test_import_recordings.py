"""`data import` of what other programs recorded: odd files, frames of other sizes, videos without actions."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from data_generation.data.data import Environment, EpisodeWriter
from data_generation.data.errors import UserError
from data_generation.data.import_arrays import ImportOptions
from data_generation.data.import_dataset import import_dataset
from data_generation.data.import_session import keep_size
from data_generation.data.lock import FolderInUseError
from data_generation.data.media import write_gif, write_mp4
from run import main
from tests.import_helpers import error_of, imported, refused
from tests.training_helpers import save_fresh, tiny_config
from training.main import train

SIZE = (12, 20)


def make_frames(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 255, (count, *SIZE, 3), np.uint8))


def write_images(dpath: Path, frames: list[np.ndarray]) -> None:
    dpath.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(dpath / f"{i:06d}.png")


def entry(i: int, **changes: Any) -> dict[str, Any]:
    one_hot = np.eye(3, dtype=int)[i % 3].tolist()
    return {"src_id": i - 1, "tgt_id": i, "action": one_hot, "extras": {"reward": i / 2}} | changes


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """An environment of two sessions in the original's layout."""
    for session in range(2):
        dpath = tmp_path / "toy" / "0" / str(session)
        write_images(dpath / "frames", make_frames(4, session))
        (dpath / "actions.json").write_text(json.dumps({"actions": [entry(i) for i in range(4)]}))
    return tmp_path / "toy"


def test_a_bad_first_session_is_skipped_like_any_other(original, capsys):
    (original / "0/0/actions.json").write_text("{")
    assert "0/0/actions.json' is not valid JSON" in error_of(capsys, original)
    environment = imported(original, "--on-bad-episode", "skip")
    assert environment.sessions.tolist() == [1]
    shutil.rmtree(original / "0/1/frames")
    assert "no session of 'toy' can be read" in error_of(capsys, original, "--on-bad-episode", "skip")


ODD_ENTRIES = (
    *({"action": action} for action in (None, [0, 1], [1, 1, 0], [0.5, 0.5, 0], ["1", 0, 0], {}, 3, -1, True, 1 << 70)),
    *({"tgt_id": number} for number in (None, "2", 2.0, -1, 1 << 70, True)),
    *({"src_id": number} for number in ("1", 7, [])),
    *({"extras": extras} for extras in (None, [], {"reward": None}, {"reward": "x"}, {"reward": float("nan")})),
    *({"extras": {"reward": reward}} for reward in (10**400, 1e39, -1e300)),
)


@pytest.mark.parametrize("change", ODD_ENTRIES, ids=str)
def test_an_odd_action_is_one_line_that_names_its_file(original, capsys, change):
    actions = [entry(i, **(change if i == 2 else {})) for i in range(4)]
    (original / "0/1/actions.json").write_text(json.dumps({"actions": actions}))
    line = error_of(capsys, original)
    assert "/toy/0/1/" in line
    assert "--on-bad-episode=skip" in line


@pytest.mark.parametrize("content", ["null", "[]", "3", '{"name": null}', '{"info": []}', '{"info": {"game": 3}}', "["])
def test_an_odd_info_is_one_line_that_names_its_file(original, capsys, content):
    (original / "info.json").write_text(content)
    assert "toy/info.json'" in error_of(capsys, original)


def claims_to_be_huge(path: Path) -> None:
    """A PNG of a few bytes that says it has 60 000 x 60 000 pixels."""
    data = bytearray(path.read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    path.write_bytes(data)


def is_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_bytes(b""), lambda path: path.write_text("no image"), claims_to_be_huge, is_a_fifo],
)
def test_an_odd_image_is_one_line_that_names_it(original, capsys, spoil):
    spoil(original / "0/1/frames/000002.png")
    assert "0/1/frames/000002.png" in error_of(capsys, original)


def test_what_a_power_cut_left_of_an_import_is_made_again(original):
    path = imported(original).episode_path(1)
    whole = path.read_bytes()
    path.write_bytes(b"")
    imported(original)
    assert path.read_bytes() == whole


def test_frames_of_any_size_are_resized_and_shown_whole(original):
    environment = imported(original, "--image-size", "10")
    assert environment.info.frame_shape == (3, 10, 10)
    with environment.open(0) as episode:
        frames = episode.frames()
    assert not frames[:, :, [0, 1, 8, 9]].any()
    np.testing.assert_allclose(frames[:, :, 2:8].mean(), np.mean(make_frames(4)), atol=3)


def test_frames_that_change_their_size_are_one_line_unless_resized(original, capsys):
    Image.fromarray(make_frames(1)[0][:6, :7]).save(original / "0/1/frames/000002.png")
    assert "--image-size" in error_of(capsys, original)
    shutil.rmtree(original.parent / "imported")
    assert imported(original, "--image-size", "8").num_episodes == 2


@pytest.mark.parametrize("stray", ["videos", "images", "image", "sessions", "unfinished"])
@pytest.mark.parametrize("kind", ["images", "mp4", "original"])
def test_a_stray_recording_above_environments_hides_none_of_them(tmp_path, stray, kind, original, capsys):
    """One video beside the folders of a dataset would make it one environment, of that video."""
    top = tmp_path / "top"
    make_recordings(top / "sonic", kind)
    if stray == "videos":
        write_mp4(top / "trailer.mp4", make_frames(3), 10)
    elif stray == "image":
        Image.fromarray(make_frames(1)[0]).save(top / "cover.png")
    elif stray == "images":
        write_images(top / "cover", make_frames(3))
    else:
        shutil.copytree(original / "0", top / "0")
        for path in list(top.rglob("actions.json")) if stray == "unfinished" else ():
            path.unlink()
    name = {"videos": "trailer.mp4", "image": "cover.png", "images": "cover"}.get(stray, "0")
    line = error_of(capsys, top)
    assert f"'{top / name}' makes '{top}' one environment, without the recordings in '{top / 'sonic'}'" in line
    assert "import the folders one by one" in line
    assert not (tmp_path / "imported").exists()
    shutil.rmtree(top / name) if (top / name).is_dir() else (top / name).unlink()
    assert imported(top, "--image-size", "16").name == "sonic"


def write_empty_video(path: Path) -> None:
    """A video without a frame, as a recording that was stopped at once leaves it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize("name", ["a", "c"])
def test_a_video_without_frames_is_one_line_and_skipped_if_asked(tmp_path, name, capsys):
    """Whether it comes first or last."""
    write_recording(tmp_path / "films", "mp4", "b", make_frames(5))
    write_empty_video(tmp_path / "films" / f"{name}.avi")
    assert f"films/{name}.avi' holds no frames: remove it" in error_of(capsys, tmp_path / "films")
    shutil.rmtree(tmp_path / "imported", ignore_errors=True)
    assert imported(tmp_path / "films", "--on-bad-episode", "skip").num_frames.tolist() == [5]


# ---- without actions ------------------------------------------------------------------------------------------------


def make_recordings(root: Path, kind: str, seed: int = 0) -> Path:
    """Two recordings of 9 and 10 frames."""
    for i in range(2):
        frames = make_frames(9 + i, seed + i)
        if kind == "images":
            write_images(root / f"run {i}", frames)
        elif kind == "original":
            write_images(root / "0" / str(i) / "frames", frames)
        elif kind == "gif":
            write_gif(root / f"{i}.gif", frames, 10)
        else:
            write_mp4(root / f"{i}.mp4", frames, 10)
    return root


@pytest.mark.parametrize("kind", ["images", "original", "gif", "mp4"])
def test_recordings_without_actions_become_episodes(tmp_path, kind):
    environment = imported(make_recordings(tmp_path / "films", kind), "--image-size", "16")
    assert environment.num_frames.tolist() == [9, 10]
    assert environment.info.action_names == []
    assert environment.info.frame_rate == (10 if kind in ("gif", "mp4") else 15)
    assert main(["data", "check", str(environment.env_dpath)]) == 0
    assert main(["data", "info", str(environment.env_dpath)]) == 0


def write_recording(root: Path, kind: str, name: str, frames: list[np.ndarray]) -> None:
    root.mkdir(exist_ok=True)
    write_images(root / name, frames) if kind == "images" else write_mp4(root / f"{name}.mp4", frames, 10)


@pytest.mark.parametrize("kind", ["images", "mp4"])
def test_a_folder_that_has_grown_gives_each_recording_one_episode(tmp_path, kind, capsys):
    source, options = tmp_path / "films", ("--image-size", "16")
    for number, name in enumerate("bce"):
        write_recording(source, kind, name, make_frames(5 + number, number))
    environment = imported(source, *options)
    before = [environment.episode_path(i).read_bytes() for i in range(3)]
    for number, name in enumerate("ad"):
        write_recording(source, kind, name, make_frames(8 + number, 3 + number))
    environment = imported(source, *options)
    assert environment.sessions.tolist() == [0, 1, 2, 3, 4]
    assert environment.num_frames.tolist() == [5, 6, 7, 8, 9]
    assert [environment.episode_path(i).read_bytes() for i in range(3)] == before
    shutil.rmtree(source / "b") if kind == "images" else (source / "b.mp4").unlink()
    capsys.readouterr()
    assert imported(source, *options).num_frames.tolist() == [5, 6, 7, 8, 9]
    assert "imported 0 episodes" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["images", "original", "gif", "mp4"])
def test_recordings_of_the_same_names_in_another_folder_change_nothing(tmp_path, kind, capsys):
    source, options = make_recordings(tmp_path / "films", kind), ("--image-size", "16")
    environment = imported(source, *options)
    target = environment.env_dpath.parent
    moved = tmp_path / "moved" / "films"
    shutil.copytree(source, moved)
    capsys.readouterr()
    imported(moved, *options, target=target)
    assert "imported 0 episodes" in capsys.readouterr().out
    other = tmp_path / "other" / "films"
    other.parent.mkdir()
    make_recordings(other, kind, seed=5)
    assert "was made of another recording than" in refused(capsys, other, target, *options)


def test_two_imports_into_one_environment_give_no_number_twice(tmp_path):
    """The second one begins while the first one writes an episode."""
    one, two, target = tmp_path / "one" / "films", tmp_path / "two" / "films", tmp_path / "imported"
    for seed, path in enumerate((one / "a", one / "b", two / "c", two / "d")):
        write_images(path, make_frames(5 + seed, seed))
    refusals = []

    def fit(frame: np.ndarray) -> np.ndarray:
        if (target / "films" / "info.json").exists() and not refusals:
            with pytest.raises(FolderInUseError, match=r"films' is in use by .*: wait for it, or stop it"):
                import_dataset(two, target, ImportOptions())
            refusals.append(True)
        return keep_size(frame)

    assert import_dataset(one, target, ImportOptions(), fit=fit).made == 2
    assert refusals
    assert import_dataset(two, target, ImportOptions()).made == 2
    assert Environment(target / "films").num_frames.tolist() == [5, 6, 7, 8]


def test_videos_that_begin_alike_are_told_apart(tmp_path, capsys):
    for name, seed in (("one", 0), ("two", 9)):
        (tmp_path / name).mkdir()
        write_recording(tmp_path / name / "films", "mp4", "a", [*make_frames(20), *make_frames(5, seed)])
    target = imported(tmp_path / "one" / "films").env_dpath.parent
    assert "was made of another recording than" in refused(capsys, tmp_path / "two" / "films", target)


def test_an_original_environment_of_the_same_name_changes_nothing(original, capsys):
    connector = {"valid_action_combos": [["A"], ["B"], ["C"]], "n_skip_frames": 2}
    info = {"info": {"game": "Pong", "config": connector}}
    (original / "info.json").write_text(json.dumps(info))
    target = imported(original).env_dpath.parent
    other = original.parent / "other" / "toy"
    shutil.copytree(original, other)
    for change, problem in (
        ({"game": "Tetris"}, "has game 'Pong', not 'Tetris' as these recordings"),
        ({"config": connector | {"n_skip_frames": 3}}, "has connector.n_skip_frames 2, not 3"),
        ({"config": {"valid_action_combos": [["A"], ["B"], ["C"]]}}, "has connector.n_skip_frames 2, not None"),
    ):
        (other / "info.json").write_text(json.dumps({"info": info["info"] | change}))
        assert problem in refused(capsys, other, target)
    (other / "info.json").write_text(json.dumps(info))
    shutil.copytree(other / "0/1", other / "0/2")
    shutil.copytree(other / "0/1", other / "1/0")
    assert imported(other, target=target).sessions.tolist() == [0, 1, 2, 0]
    (other / "0/1/actions.json").write_text(
        json.dumps({"actions": [entry(2 * i, src_id=None, tgt_id=i) for i in range(4)]})
    )
    assert "000001.episode' was made of another recording than" in refused(capsys, other, target)


def test_videos_of_several_rates_are_named_and_change_no_info(tmp_path, capsys, caplog):
    source = make_recordings(tmp_path / "films", "mp4")
    environment = imported(source)
    assert not [record for record in caplog.records if "per second" in record.message]
    info = (environment.env_dpath / "info.json").read_bytes()
    write_mp4(source / "-.mp4", make_frames(5, 3), 50)
    assert imported(source).num_episodes == 3
    assert "films: videos of 10 to 50 frames per second in one environment" in caplog.text
    assert (environment.env_dpath / "info.json").read_bytes() == info


def forget_recordings(environment: Environment) -> None:
    """Rewrite the episodes as version 0.1 made them: without the notes on their recordings."""
    for i in range(environment.num_episodes):
        with environment.open(i) as episode:
            meta, frames = replace(episode.meta, policy_parameters={}), episode.frames()
            actions, rewards = episode.actions, episode.rewards
        with EpisodeWriter(environment.episode_path(i), meta, environment.info.frame_shape) as writer:
            writer.start(frames[0])
            for frame, action, reward in zip(frames[1:], actions, rewards, strict=True):
                writer.step(action, reward, False, False, {}, frame)
            writer.commit()


def test_imports_of_originals_by_version_0_1_which_noted_no_sizes_are_continued(original):
    forget_recordings(imported(original))
    shutil.copytree(original / "0/1", original / "0/2")
    assert imported(original).sessions.tolist() == [0, 1, 2]


def test_recordings_are_not_added_to_episodes_that_are_of_none(tmp_path, capsys):
    source = make_recordings(tmp_path / "films", "images")
    forget_recordings(imported(source, "--image-size", "16"))
    assert "import into another folder" in error_of(capsys, source, "--image-size", "16")


@pytest.mark.parametrize("kind", ["images", "original", "mp4"])
@pytest.mark.parametrize("option", ["--action-names", "--actions-key"])
def test_actions_of_recordings_without_actions_are_refused(tmp_path, kind, option, capsys):
    line = error_of(capsys, make_recordings(tmp_path / "films", kind), option, "A")
    assert f"holds recordings without actions: leave out {option}" in line


@pytest.mark.parametrize("names", ["", "A,,C", ",A,B", "A,B,", "A,A,C", "A,B\n,C"])
def test_action_names_that_are_none_are_refused_before_anything_is_written(original, names, capsys):
    assert "--action-names=" in error_of(capsys, original, f"--action-names={names}")
    assert not (original.parent / "imported").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"valid_action_combos": [["A"], ["A"], ["C"]]},
        {"valid_action_combos": [["A"], ["B"], ["C"]], "n_skip_frames": "two"},
    ],
    ids=str,
)
def test_an_info_that_nothing_could_read_is_not_written(original, changes, capsys):
    (original / "info.json").write_text(json.dumps({"info": {"config": changes}}))
    error_of(capsys, original)
    assert not list((original.parent / "imported").rglob("*.json"))


def test_an_import_into_an_environment_folder_or_over_a_dataset_is_refused(original, capsys):
    env_dpath = imported(original).env_dpath
    assert "is an environment folder; name the dataset's folder" in error_of(capsys, original, "--to", str(env_dpath))
    dataset = original.parent / "all" / "toy"
    dataset.mkdir(parents=True)
    env_dpath.rename(dataset / "other")
    assert "toy' is a dataset folder, not an environment's" in error_of(capsys, original, "--to", str(dataset.parent))


def test_actions_of_the_original_layout_can_be_left_out(original):
    environment = imported(original, "--without-actions")
    assert environment.info.action_names == []
    with environment.open(0) as episode:
        assert episode.actions.tolist() == [0] * 3 and episode.rewards.tolist() == [0.5, 1, 1.5]


def test_one_video_is_a_dataset(tmp_path):
    make_recordings(tmp_path / "films", "mp4")
    assert imported(tmp_path / "films" / "1.mp4").num_frames.tolist() == [10]


@pytest.mark.parametrize("model", ["tokenizer", "lam", "genie_redux", "genie_redux_guided"])
def test_models_without_actions_train_on_recordings_without_actions(tmp_path, model):
    make_recordings(tmp_path / "films", "images")
    environment = imported(tmp_path / "films", "--image-size", "16")
    environment.env_dpath.rename(tmp_path / "films_v0.0.0")
    config = tiny_config(tmp_path, model)
    config.train.dataset_name = config.eval.dataset_name = "films_v0.0.0"
    config.train.num_train_steps = 1
    if model.startswith("genie"):
        config.tokenizer_fpath = str(save_fresh(tmp_path / "model-7.pt", tiny_config(tmp_path)))
    if model == "genie_redux_guided":
        with pytest.raises(UserError, match=r"model=genie_redux_guided: it takes recorded actions.*genie_redux"):
            train(config)
    else:
        train(config)
