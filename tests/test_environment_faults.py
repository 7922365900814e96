"""Whatever an environment does costs its episode, and no more; what cannot be recorded is refused beforehand."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import Environment, episode_path, list_environments
from data_generation.generate import Generated, generate
from data_generation.generator.connector_base import make_connector
from data_generation.generator.generator import GenerationFailed
from tests.odd_environments import FAULTS, NUM_STEPS, SIZE, odd
from tests.thread_children import children_in_threads


def config_of(dpath: Path, game: Any, n_sessions: int = 2, step_seconds: float = 60, **changes: Any) -> GenerateConfig:
    sizes = GeneratorConfig(n_sessions=n_sessions, n_workers=2, step_seconds=step_seconds)
    settings = {"n_skip_frames": 1, "valid_action_combos": [], "image_size": SIZE, **changes}
    connector = ConnectorConfig(name="gymnasium", game=game, generator_config=sizes, **settings)
    return GenerateConfig(DatasetConfig(connector, data_dpath=str(dpath)))


def environment_of(dpath: Path) -> Environment:
    (env_dpath,) = list_environments(dpath / "gymnasium_v0.0.0")
    return Environment(env_dpath)


def made(dpath: Path, *args: Any, **changes: Any) -> tuple[Generated, Environment]:
    return generate(config_of(dpath, *args, **changes)), environment_of(dpath)


def made_in_threads(dpath: Path, *args: Any, **changes: Any) -> tuple[Generated, Environment]:
    """For tests of which the environments' processes are not the subject."""
    with children_in_threads():
        return made(dpath, *args, **changes)


def test_an_episode_that_raises_exits_hangs_or_is_stopped_is_named_and_the_others_are_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config_of(tmp_path, odd("Faulty"), n_sessions=40, step_seconds=2)
    with pytest.raises(GenerationFailed, match=r"not made: (\d+) of 40 episodes, first .*, instance 0, session \d+: "):
        generate(cfg)
    environment = environment_of(tmp_path)
    failed = [record.getMessage() for record in caplog.records if "episode failed" in record.getMessage()]
    assert environment.num_episodes + len(failed) == 40
    assert environment.num_frames.tolist() == [NUM_STEPS + 1] * environment.num_episodes
    # Nearly all of the faults are drawn by some of the episodes.
    assert sum(any(fault in line for line in failed) for fault in FAULTS) >= 8
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.episode")}
    with pytest.raises(GenerationFailed, match=rf"not made: \d+ of {len(failed)} episodes"):
        generate(cfg)
    assert times.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.episode")}.items()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Kwargs", r"making it raised TypeError: .*level.*; give arguments that it needs by env_kwargs=\{name:value\}"),
        ("OldStep", r"step gave 4 values, .*; it has Gym's old interface"),
        ("OldReset", r"reset raised TypeError: .*'seed'; it has Gym's old interface"),
        ("OnlyObservation", r"reset gave an array float64 \(2,\), not \(observation, info\)"),
        ("ManyActions", "it has 1000000000000 actions; at most 1000"),
        ("BoolImages", r"its image is an array bool \(12, 12, 3\): expected uint8, or float in"),
        ("ChangingSize", r"its images change from an array uint8 \(12, 12, 3\) to"),
        ("ExitsAtOnce", r"its worker process died \(exit code 9\)"),
        ("ResetRaises", "reset raised SystemExit: no level at all"),
        ("WithoutActions", "make raised AttributeError: no action_space"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_one_line_with_the_game(name: str, message: str) -> None:
    config = config_of(Path("nowhere"), odd(name)).config.connector
    with pytest.raises(ValueError, match=message) as raised:
        make_connector(config)
    assert str(raised.value).startswith(f"game={odd(name)}: ")
    assert "\n" not in str(raised.value)


def test_one_game_of_which_nothing_works_leaves_the_others_alone(tmp_path: Path) -> None:
    games = [odd("ResetRaises"), odd("Useless"), odd("Plain")]
    message = (
        r"not made: 20 of 40 episodes, first .*Useless-v0, instance 0, session .*: step raised RuntimeError: crash"
    )
    with pytest.raises(GenerationFailed, match=message):
        generate(config_of(tmp_path, games, n_sessions=20))
    found = {path.name: Environment(path).num_episodes for path in list_environments(tmp_path / "gymnasium_v0.0.0")}
    assert sorted(found.values()) == [0, 20]


def test_an_environment_that_cannot_be_closed_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    generated, _ = made(tmp_path, odd("CloseRaises"))
    assert generated.num_made == 2
    assert "CloseRaises-v0: close raised RuntimeError: no handle" in capfd.readouterr().err


def test_one_that_cannot_be_closed_in_time_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_generation.generator.child._PATIENCE", 0.5)
    assert made(tmp_path, odd("CloseHangs"))[0].num_made == 2


def test_one_that_hangs_while_it_is_made_is_named_and_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILE_OF_CALLS", str(tmp_path / "calls"))
    with pytest.raises(ValueError, match=r"game=.*MakeHangs-v0: make gave no sign of life for 10 s \(step_seconds\)"):
        make_connector(config_of(tmp_path, odd("MakeHangs"), step_seconds=10).config.connector)
    assert (tmp_path / "calls").read_text() == "made\n"


def test_arguments_of_an_environment_are_recorded_and_compared(tmp_path: Path) -> None:
    _, environment = made_in_threads(tmp_path, odd("Kwargs"), env_kwargs={"level": 3})
    assert environment.info.connector["env_kwargs"] == {"level": 3}
    assert made_in_threads(tmp_path, odd("Kwargs"), env_kwargs={"level": 3})[0].num_kept == 2
    with pytest.raises(ValueError, match=r"connector.env_kwargs=\{'level': 3\} \(now \{'level': 4\}\)"):
        generate(config_of(tmp_path, odd("Kwargs"), env_kwargs={"level": 4}))
    with pytest.raises(ValueError, match=r"env_kwargs=.*has no effect with coinrun"):
        make_connector(ConnectorConfig(name="coinrun", env_kwargs={"level": 3}))


@pytest.mark.parametrize("name", ["Float", "BigEndian"])
def test_float_images_are_not_recorded_black(tmp_path: Path, name: str) -> None:
    _, environment = made_in_threads(tmp_path, odd(name))
    with environment.open(0) as episode:
        assert (episode.frames() == 204).all()


def test_a_sprite_of_every_second_frame_is_recorded_on_request_only(tmp_path: Path) -> None:
    for on in (False, True):
        _, environment = made_in_threads(tmp_path / str(on), odd("Flicker"), n_skip_frames=2, max_last_frames=on)
        with environment.open(0) as episode:
            frames = episode.frames()
        assert (frames[1:, :, 0, 0] == 255 * on).all()
        assert (frames[:, :, -1] == 100).all()
        assert environment.info.connector.get("max_last_frames", False) is on


def test_the_rate_of_frames_is_the_environments_divided_by_the_held_frames(tmp_path: Path) -> None:
    _, environment = made_in_threads(tmp_path, odd("Plain"), n_skip_frames=4)
    assert environment.info.fps == 7.5


def test_ids_that_lead_to_one_folder_are_refused(tmp_path: Path) -> None:
    games = [odd("Plain"), odd("PLAIN")]
    with pytest.raises(ValueError, match=r"game=.*PLAIN-v0: it and .*Plain-v0 lead to one folder, '.*plain-v0_v0.0.0'"):
        generate(config_of(tmp_path, games))
    assert not list(tmp_path.iterdir())


def test_a_module_of_the_folder_where_one_stands_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(__file__).with_name("odd_environments.py").read_text()
    (tmp_path / "found_here.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert made(tmp_path, "found_here:Plain-v0")[0].num_made == 2


@pytest.mark.parametrize("damage", [b"", b"\0" * 100])
def test_what_a_power_cut_leaves_is_made_again(tmp_path: Path, damage: bytes) -> None:
    _, environment = made_in_threads(tmp_path, odd("Plain"), n_sessions=4)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".episode", ".json")}
    paths = [episode_path(environment.env_dpath, 0, session) for session in range(4)]
    paths[0].write_bytes(damage)
    paths[1].write_bytes(before[paths[1]][:-5])
    again, _ = made_in_threads(tmp_path, odd("Plain"), n_sessions=4)
    assert (again.num_made, again.num_kept) == (2, 2)
    (environment.env_dpath / "info.json").write_bytes(damage)
    made_in_threads(tmp_path, odd("Plain"), n_sessions=4)
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_deleted_in_the_middle_of_a_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER_TO_DELETE", str(tmp_path / "gymnasium_v0.0.0"))
    with pytest.raises(ValueError, match=r"'.*' was deleted while .*: run the .*command again") as raised:
        generate(config_of(tmp_path, odd("Deleting")))
    assert "\n" not in str(raised.value)


def test_what_the_disk_refuses_ends_the_run_and_is_no_fault_of_the_environment(tmp_path: Path) -> None:
    _, environment = made_in_threads(tmp_path, odd("Plain"))
    folder = environment.env_dpath / "000000"
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(OSError, match="000000"):
        generate(config_of(tmp_path, odd("Plain")))


def test_texts_of_the_info_are_omitted_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    generated, environment = made_in_threads(tmp_path, odd("TextInInfo"))
    assert generated.num_made == 2
    said = [record.getMessage() for record in caplog.records if "omitted" in record.getMessage()]
    assert said == [f"{odd('TextInInfo')}: info['name'] is str ('counter'), no number: omitted"]
    assert np.isfinite(environment.open(0).infos["t"]).all()
