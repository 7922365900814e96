"""`python run.py data …`: what it prints, writes, imports, and its exit codes."""

import json
import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from data_generation.cli import main
from data_generation.data.data import (
    DatasetInfo,
    Environment,
    EpisodeMeta,
    EpisodeReader,
    EpisodeWriter,
    episode_path,
    list_environments,
)
from data_generation.data.errors import UserError
from launcher.main import launch

SHAPE = (3, 16, 24)
NAMES = ["RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP"]


def smooth_frames(num_frames: int, seed: int = 0) -> np.ndarray:
    """(T, C, H, W): something that JPEG and H.264 keep."""
    y, x = np.mgrid[0 : SHAPE[1], 0 : SHAPE[2]]
    channels = [[x * 5 + 4 * t, y * 8 + seed, x * 2 + y * 2 + 2 * t] for t in range(num_frames)]
    return np.clip(np.array(channels), 0, 255).astype(np.uint8)


@pytest.fixture
def dataset_dpath(tmp_path) -> Path:
    root = tmp_path / "retro_act_v0.0.0"
    for name in ("retro_a_v0.0.0", "retro_b_v0.0.0"):
        DatasetInfo(name, "Pong", NAMES, SHAPE, {"n_skip_frames": 4}).save(root / name)
        for session in range(3):
            frames = smooth_frames(20 + session, session)
            path = episode_path(root / name, 0, session)
            with EpisodeWriter(path, EpisodeMeta(session=session), SHAPE) as writer:
                writer.start(frames[0])
                for t in range(1, len(frames)):
                    writer.step(t % 2, 1.0, False, t == len(frames) - 1, {}, frames[t])
                writer.commit()
    return root


def make_original(
    dpath: Path, num_frames: int, kind: str, seed: int = 0, combos: list | None = None
) -> tuple[np.ndarray, list[int]]:
    """One session in the original's layout: frames and the action that led to each of them."""
    frames = smooth_frames(num_frames, seed)
    actions = [(3 * t + seed) % len(NAMES) for t in range(num_frames)]
    dpath.mkdir(parents=True)
    entries = []
    for t, action in enumerate(actions):
        one_hot = [int(k == action) for k in range(len(NAMES))]
        extras = {"score": 10 * t, "tracking_background_mask": None}
        entries.append({"src_id": t - 1, "tgt_id": t, "action": one_hot, "extras": extras})
    (dpath / "actions.json").write_text(json.dumps({"actions": entries}))
    images = frames.transpose(0, 2, 3, 1)
    if kind == "mp4":
        with av.open(str(dpath / "frames.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=1, options={"crf": "1"})
            stream.height, stream.width, stream.pix_fmt = SHAPE[1], SHAPE[2], "yuv420p"
            for image in images:
                image = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
    else:
        (dpath / "frames").mkdir()
        for t, image in enumerate(images):
            cv2.imwrite(str(dpath / "frames" / f"{t:06d}.{kind}"), image[:, :, ::-1])
    return frames, actions


@pytest.fixture
def original_dpath(tmp_path) -> Path:
    env_dpath = tmp_path / "original" / "retro_pong-nes_v0.1.0"
    for session, kind in enumerate(["jpg", "png", "mp4"]):
        make_original(env_dpath / "000000" / f"{session:06d}", 10 + session, kind, session)
    info = {"info": {"game": "Pong-Nes", "action_captions": [[name] for name in NAMES]}, "name": "retro_pong-nes"}
    info |= {"version": "0.1.0", "generator_version": "1.0.0", "generator_config": {"n_sessions": 3}}
    (env_dpath / "info.json").write_text(json.dumps(info))
    return tmp_path / "original"


# --- info and check


def test_info_summarises_a_dataset_and_an_environment(dataset_dpath, capsys):
    assert main(["info", str(dataset_dpath)]) == 0
    text = capsys.readouterr().out
    assert "retro_a_v0.0.0" in text
    assert "2 environments" in text
    assert main(["info", str(dataset_dpath / "retro_a_v0.0.0")]) == 0
    text = capsys.readouterr().out
    assert "1/1/1" in text
    assert "RIGHT" in text
    assert main(["info", str(dataset_dpath), "--json"]) == 0
    statistics = json.loads(capsys.readouterr().out)["retro_b_v0.0.0"]
    assert (statistics["episodes"], statistics["frames"], statistics["reward_sum"]) == (3, 63, 60)
    assert sum(statistics["actions"].values()) == 60


def test_check_finds_nothing_good_where_there_are_no_episodes(dataset_dpath: Path) -> None:
    """As a recording leaves it whose agent could not be read."""
    for path in (dataset_dpath / "retro_a_v0.0.0").rglob("*.episode"):
        path.unlink()
    with pytest.raises(UserError, match=r"path=.*retro_a_v0\.0\.0: holds no episodes; generate some"):
        main(["check", str(dataset_dpath / "retro_a_v0.0.0")])


def test_check_names_every_bad_file_and_exits_with_1(dataset_dpath, capsys):
    assert main(["check", str(dataset_dpath)]) == 0
    assert "checked 6 episodes in 2 environments: all good" in capsys.readouterr().out
    damaged = episode_path(dataset_dpath / "retro_a_v0.0.0", 0, 1)
    data = bytearray(damaged.read_bytes())
    data[100] ^= 1
    damaged.write_bytes(data)
    copied = episode_path(dataset_dpath / "retro_b_v0.0.0", 0, 9)
    copied.write_bytes(episode_path(dataset_dpath / "retro_b_v0.0.0", 0, 0).read_bytes())
    (copied.parent / ".000007.episode.abcd.tmp").write_bytes(b"half")
    assert main(["check", str(dataset_dpath)]) == 1
    text = capsys.readouterr().out
    assert f"bad: episode '{damaged}' is damaged" in text
    assert f"bad: episode '{copied}' is instance/session 0/0 by its content" in text
    assert "1 temporary files" in text
    assert "checked 7 episodes in 2 environments: 2 bad" in text


def test_check_finds_what_does_not_fit_info_json(dataset_dpath, capsys):
    env_dpath = dataset_dpath / "retro_b_v0.0.0"
    DatasetInfo("b", "Pong", ["RIGHT"], SHAPE).save(env_dpath)
    assert main(["check", str(dataset_dpath)]) == 1
    text = capsys.readouterr().out
    assert "as 'retro_a_v0.0.0': keep them apart" in text
    assert "has actions 0 to 1, but 1 are named" in text
    (env_dpath / "info.json").write_text("{")
    assert main(["check", str(dataset_dpath)]) == 1
    assert "is not valid JSON" in capsys.readouterr().out


# --- import


@pytest.mark.parametrize(("session", "kind", "tolerance"), [(0, "jpg", 6.0), (1, "png", 0.0), (2, "mp4", 8.0)])
def test_import_keeps_frames_and_the_actions_between_them(original_dpath, tmp_path, session, kind, tolerance):
    assert main(["import", str(original_dpath), "--to", str(tmp_path / "new")]) == 0
    environment = Environment(list_environments(tmp_path / "new")[0])
    assert environment.info.action_names == NAMES
    assert environment.info.game == "Pong-Nes"
    assert environment.sessions.tolist() == [0, 1, 2]
    expected, actions = smooth_frames(10 + session, session), [(3 * t + session) % 5 for t in range(10 + session)]
    with environment.open(session) as episode:
        assert episode.num_frames == 10 + session
        difference = np.abs(episode.frames().astype(int) - expected).mean()
        assert difference <= tolerance, f"{kind} differs by {difference}"
        # Entry i holds the action that led to frame i; the first one comes from a frame that was not stored.
        assert episode.actions.tolist() == actions[1:]
        assert episode.infos["score"].tolist() == [10.0 * t for t in range(1, 10 + session)]
        assert episode.truncated.tolist() == [False] * (8 + session) + [True]


def test_an_interrupted_import_goes_on(original_dpath, tmp_path, capsys):
    env_dpath = original_dpath / "retro_pong-nes_v0.1.0"
    hidden = env_dpath / "000000" / "000002"
    hidden.rename(tmp_path / "away")
    assert main(["import", str(env_dpath), "--to", str(tmp_path / "new")]) == 0
    assert "imported 2 episodes" in capsys.readouterr().out
    (tmp_path / "away").rename(hidden)
    assert main(["import", str(env_dpath), "--to", str(tmp_path / "new")]) == 0
    assert "imported 1 episodes into" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "new")]) == 0


def test_bad_sessions_of_an_import_are_named_or_counted(original_dpath, tmp_path, capsys):
    sessions = original_dpath / "retro_pong-nes_v0.1.0" / "000000"
    (sessions / "000001" / "frames" / "000004.png").unlink()
    (sessions / "000002" / "frames.mp4").write_bytes(b"no film")
    make_original(sessions / "000003", 10, "png")
    content = json.loads((sessions / "000003" / "actions.json").read_text())
    content["actions"][4]["action"] = [0, 0, 1, 1, 0]
    (sessions / "000003" / "actions.json").write_text(json.dumps(content))
    make_original(sessions / "000004", 12, "mp4")
    (sessions / "000004" / "actions.json").write_text(json.dumps({"actions": content["actions"][:4]}))
    arguments = ["import", str(original_dpath), "--to", str(tmp_path / "new")]
    with pytest.raises(ValueError, match=r"000001/frames/000004\.jpg' is missing.*--on-bad-episode=skip") as error:
        main(arguments)
    assert "\n" not in str(error.value)
    assert main([*arguments, "--on-bad-episode", "skip"]) == 0
    assert "imported 0 episodes" in capsys.readouterr().out
    assert Environment(list_environments(tmp_path / "new")[0]).sessions.tolist() == [0]


def test_imports_of_other_things_are_refused(dataset_dpath, original_dpath, tmp_path):
    with pytest.raises(ValueError, match="not an original dataset"):
        main(["import", str(dataset_dpath), "--to", str(tmp_path / "new")])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        main(["import", str(tmp_path / "none"), "--to", str(tmp_path / "new")])
    assert main(["import", str(original_dpath), "--to", str(tmp_path / "new")]) == 0
    with pytest.raises(ValueError, match=r"exists and has action_names .*import into another folder"):
        main(["import", str(original_dpath), "--to", str(tmp_path / "new"), "--action-names", "A,B,C,D,E"])


# --- export and view


def test_films_have_all_frames_in_place(dataset_dpath, tmp_path):
    assert main(["export", str(dataset_dpath), "--to", str(tmp_path / "films"), "--max-episodes", "2"]) == 0
    films = sorted((tmp_path / "films").rglob("*.mp4"))
    assert [film.name for film in films] == ["000000_000000.mp4", "000000_000002.mp4"] * 2
    with av.open(str(films[1])) as container:
        assert container.streams.video[0].average_rate == 15
        read = np.stack([image.to_ndarray(format="rgb24") for image in container.decode(video=0)])
    expected = smooth_frames(22, 2).transpose(0, 2, 3, 1).repeat(4, 1).repeat(4, 2)
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).mean() < 6
    episode = episode_path(dataset_dpath / "retro_a_v0.0.0", 0, 1)
    assert main(["export", str(episode), "--to", str(tmp_path / "gif"), "--format", "gif", "--scale", "1"]) == 0
    with Image.open(tmp_path / "gif" / "000000_000001.gif") as gif:
        assert (gif.n_frames, gif.size) == (21, (24, 16))
    assert sorted(os.listdir(tmp_path / "gif")) == ["000000_000001.gif"]


def test_lerobot_export_is_the_published_layout(dataset_dpath, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "lerobot"
    assert main(["export", str(dataset_dpath), "--to", str(target), "--format", "lerobot"]) == 0
    info = json.loads((target / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 6, 120)
    episodes = parquet.read_table(target / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    rows = parquet.read_table(target / info["data_path"].format(chunk_index=0, file_index=0)).to_pylist()
    assert [row["index"] for row in rows] == list(range(120))
    assert set(rows[0]) | {"observation.images.screen"} == set(info["features"])
    for episode in episodes:
        own = rows[episode["dataset_from_index"] : episode["dataset_to_index"]]
        assert {row["episode_index"] for row in own} == {episode["episode_index"]}
        assert [row["frame_index"] for row in own] == list(range(episode["length"]))
        assert own[-1]["next.done"]
        file = episode["videos/observation.images.screen/file_index"]
        video = info["video_path"].format(video_key="observation.images.screen", chunk_index=0, file_index=file)
        with av.open(str(target / video)) as container:
            assert sum(1 for _ in container.decode(video=0)) == episode["length"] + 1
    stats = json.loads((target / "meta" / "stats.json").read_text())
    assert np.shape(stats["observation.images.screen"]["mean"]) == (3, 1, 1)
    assert stats["action"]["max"] == [1.0]
    with pytest.raises(ValueError, match="exists: remove it"):
        main(["export", str(dataset_dpath), "--to", str(target), "--format", "lerobot"])


def test_lerobot_export_takes_some_episodes_or_one(dataset_dpath, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")

    def lengths(path: Path, *options: str) -> list[int]:
        target = tmp_path / f"lerobot{len(list(tmp_path.iterdir()))}"
        assert main(["export", str(path), "--to", str(target), "--format", "lerobot", *options]) == 0
        return parquet.read_table(target / "meta/episodes/chunk-000/file-000.parquet")["length"].to_pylist()

    assert lengths(dataset_dpath, "--max-episodes", "2") == [19, 21, 19, 21]
    assert lengths(dataset_dpath / "retro_b_v0.0.0", "--max-episodes", "9") == [19, 20, 21]
    assert lengths(episode_path(dataset_dpath / "retro_b_v0.0.0", 0, 1)) == [20]
    alone = tmp_path / "alone.episode"
    alone.write_bytes(episode_path(dataset_dpath / "retro_b_v0.0.0", 0, 1).read_bytes())
    for path, message in ((alone, r"has no info\.json"), (tmp_path / "none.episode", "none.episode")):
        with pytest.raises(UserError, match=message):
            lengths(path)


def test_lerobot_export_without_pyarrow_is_one_line(dataset_dpath, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match="needs pyarrow: bash install"):
        main(["export", str(dataset_dpath), "--to", str(tmp_path / "x"), "--format", "lerobot"])
    assert not (tmp_path / "x").exists()


def test_contact_sheet_has_a_row_per_episode(dataset_dpath, tmp_path, capsys):
    target = tmp_path / "sheets" / "sheet.png"
    options = ["--rows", "5", "--columns", "4", "--scale", "3"]
    assert main(["view", str(dataset_dpath), "--to", str(target), *options]) == 0
    assert str(target) in capsys.readouterr().out
    with Image.open(target) as sheet:
        assert sheet.size == (4 * (24 * 3 + 2), 5 * (16 * 3 + 16))
        # The last frame of the last row stands where it belongs (away from the time that is written on it).
        cell = np.asarray(sheet)[-2 - 24 : -2, 3 * 74 + 36 : 3 * 74 + 72]
    expected = smooth_frames(22, 2)[-1].transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)
    assert np.array_equal(cell, expected[24:, 36:])


def test_contact_sheets_are_named_after_the_whole_name_of_what_they_show(dataset_dpath, tmp_path, monkeypatch, capsys):
    dataset = dataset_dpath.rename(tmp_path / "retro_act_v0.0.0_demo")
    monkeypatch.chdir(tmp_path)
    for path, name in ((dataset, dataset.name), (min(dataset.rglob("*.episode")), "000000")):
        assert main(["view", str(path)]) == 0
        assert f"outputs/data/{name}.png" in capsys.readouterr().out
        assert (tmp_path / "outputs" / "data" / f"{name}.png").is_file()


def test_a_contact_sheet_of_a_short_episode_repeats_no_frame(tmp_path):
    path = tmp_path / "x.episode"
    with EpisodeWriter(path, EpisodeMeta(), SHAPE) as writer:
        writer.start(smooth_frames(1)[0])
        writer.commit()
    assert main(["view", str(path), "--to", str(tmp_path / "sheet.png")]) == 0
    assert EpisodeReader(path).num_frames == 1


# --- arguments


def test_help_and_wrong_arguments(capsys):
    assert launch(["data", "--help"]) == 0
    assert "verify every byte" in capsys.readouterr().out
    for command in ("info", "check", "import", "export", "view"):
        assert launch(["data", command, "--help"]) == 0
    for arguments in (["inspect", "x"], [], ["view", "x", "--rows", "0"], ["view", "x", "--scale", "99999999"]):
        with pytest.raises(UserError, match="--help` explains the command line"):
            main(arguments)
    with pytest.raises(FileNotFoundError, match=r"run 'python run\.py generate"):
        main(["info", "nowhere"])
