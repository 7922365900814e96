"""The retro_act connector: which games it chooses, and that its environment is Stable-Retro's, only faster."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import stable_retro

from data_generation.annotations.tables import read_behavior, read_controls
from data_generation.config import ConnectorConfig
from data_generation.generator.connector_retro_act import RetroActConnector
from data_generation.generator.frames import FrameFitter
from data_generation.generator.retro_env import BUTTONS, RetroActEnv, RetroSettings, action_buttons

GAME = "Airstriker-Genesis"
ACTIONS = ["RIGHT", "LEFT", "NOOP", "ACTION_SECONDARY", "RIGHT+ACTION_SECONDARY"]
CORES = {"nes": "Nes", "snes": "Snes", "genesis": "Genesis", "sms": "Sms", "gameboy": "GameBoy", "32x": "32x"}


@pytest.fixture
def open_env() -> Iterator[Callable[..., RetroActEnv]]:
    """Opens environments of Airstriker and closes them, as a process can hold one emulator."""
    opened: list[RetroActEnv] = []

    def opening(**settings: object) -> RetroActEnv:
        for env in opened:
            env.close()
        config = ConnectorConfig(game=GAME, valid_action_combos=list(ACTIONS), **settings)  # type: ignore[arg-type]
        opened.append(RetroActConnector(config).make_env(GAME, 0))
        return opened[-1]

    yield opening
    for env in opened:
        env.close()


def play(env: RetroActEnv, actions: list[int]) -> str:
    """A digest of everything that an episode shows."""
    digest = hashlib.sha256(env.reset(seed=1)[0].tobytes())
    for action in actions:
        frame, reward, terminated, truncated, info = env.step(action)
        digest.update(frame.tobytes() + repr((reward, terminated, truncated, sorted(info.items()))).encode())
        if terminated:
            break
    return digest.hexdigest()


def reference_frame(screen: np.ndarray) -> np.ndarray:
    """Padded to a square and averaged: (h, w, 3) -> (3, 64, 64)."""
    side = max(screen.shape[:2])
    top, left = (side - screen.shape[0]) // 2, (side - screen.shape[1]) // 2
    bottom, right = side - screen.shape[0] - top, side - screen.shape[1] - left
    square = np.pad(screen, ((top, bottom), (left, right), (0, 0)))
    return cv2.resize(square, (64, 64), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)


def reference_episode(actions: list[int], skip: int, skip_start: int) -> list[tuple]:
    """What a loop of `RetroEnv.step`, one call per emulator frame, shows."""
    env = stable_retro.make(f"{GAME}-v0", use_restricted_actions=stable_retro.Actions.ALL, render_mode="rgb_array")
    noop = np.zeros(env.num_buttons, np.int8)
    screen, _ = env.reset()
    for _ in range(skip_start):
        screen = env.step(noop)[0]
    seen: list[tuple] = [(reference_frame(screen), 0.0, False, {})]
    for action in actions:
        pressed = noop.copy()
        for button in action_buttons(ACTIONS[action], "Genesis", env.buttons):
            pressed[env.buttons.index(button)] = 1
        total, done = 0.0, False
        for _ in range(skip):
            screen, reward, done, _, info = env.step(pressed)
            total += reward
            if done:
                break
        seen.append((reference_frame(screen), total, done, info))
        if done:
            break
    env.close()
    return seen


@pytest.mark.parametrize(("skip", "skip_start", "num_actions"), [(4, 0, 800), (3, 50, 60), (1, 0, 60)])
def test_equals_stepping_frame_by_frame(open_env, skip: int, skip_start: int, num_actions: int) -> None:
    actions = np.random.default_rng(skip).integers(len(ACTIONS), size=num_actions).tolist()
    expected = reference_episode(actions, skip, skip_start)
    env = open_env(n_skip_frames=skip, n_skip_start_frames=skip_start)
    frame, _ = env.reset()
    assert np.array_equal(frame, expected[0][0])
    for action, (frame_there, reward_there, done_there, info_there) in zip(actions, expected[1:], strict=False):
        frame, reward, terminated, truncated, info = env.step(action)
        assert np.array_equal(frame, frame_there)
        assert (reward, terminated, truncated, info) == (reward_there, done_there, False, info_there)
    if num_actions == 800:  # long enough to score and to lose
        assert sum(row[1] for row in expected) > 0
        assert expected[-1][2]


def test_episode_is_the_same_in_a_fresh_emulator_and_after_others(open_env) -> None:
    first, second = np.random.default_rng(0).integers(len(ACTIONS), size=(2, 500)).tolist()
    env = open_env()
    digests = [play(env, first), play(env, second[:50]), play(env, first), play(env, second)]
    assert digests[0] == digests[2]
    assert play(open_env(), second) == digests[3]


def test_game_without_start_state_starts_at_the_same_point_again() -> None:
    env = stable_retro.make(f"{GAME}-v0", state=stable_retro.State.NONE, render_mode="rgb_array")
    wrapped = RetroActEnv(env, RetroSettings({"START": ["START"], "NOOP": []}, 4, 0, 64, 64))
    actions = [0, 1] * 100
    assert play(wrapped, actions) == play(wrapped, actions)
    wrapped.close()


@pytest.mark.parametrize(("action", "without"), [("START", "NOOP"), ("LEFT+RIGHT", "NOOP"), ("START+RIGHT", "RIGHT")])
def test_buttons_that_stable_retro_would_filter_are_pressed(action: str, without: str) -> None:
    env = select(game=GAME, valid_action_combos=[action, without]).make_env(GAME, 0)
    assert play(env, [0] * 8 + [1] * 20) != play(env, [1] * 28)
    env.close()


@pytest.mark.parametrize(
    ("game", "names", "said"),
    [
        ("Cinderfoot-Nes", ["RIGHT", "NOOP+NOOP"], "NOOP+NOOP does the same as NOOP on Nes"),
        ("Cinderfoot-Nes", ["ACTION_JUMP", "A", "START"], "A does the same as ACTION_JUMP on Nes"),
        (GAME, ["RIGHT+B", "B+RIGHT", "NOOP"], "B+RIGHT does the same as RIGHT+B on Genesis"),
        (GAME, [*ACTIONS, "START", "A+C", "LEFT+RIGHT"], ""),
    ],
)
def test_actions_that_do_the_same_are_named(caplog, game: str, names: list[str], said: str) -> None:
    select(game=game, valid_action_combos=names).select()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ([said] if said else [])


def test_observations_and_actions_match_their_spaces(open_env) -> None:
    env = open_env(image_size=[48, 64])
    frame, _ = env.reset()
    assert env.observation_space.contains(frame)
    assert frame.shape == (3, 48, 64)
    assert env.action_space.n == len(ACTIONS)
    assert env.render().shape == (224, 320, 3)


@pytest.mark.parametrize(("height", "width"), [(48, 128), (128, 48), (64, 64), (32, 16)])
def test_images_are_centred_on_black(height: int, width: int) -> None:
    fit = FrameFitter(64, 64)
    frame = fit(np.full((height, width, 3), 200, np.uint8))
    side = max(height, width)
    rows, columns = height * 64 / side, width * 64 / side
    assert frame.mean() == pytest.approx(200 * rows * columns / 64**2, rel=1e-3)
    assert np.array_equal(frame, frame[:, ::-1, ::-1])
    assert (frame[:, 32, 32] == 200).all()


def test_a_frame_is_the_average_of_the_area_it_covers() -> None:
    image = np.random.default_rng(0).integers(256, size=(320, 320, 3), dtype=np.uint8)
    means = image.reshape(64, 5, 64, 5, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(FrameFitter(64, 64)(image) - means).max() <= 0.51


def test_frames_survive_the_next_frame() -> None:
    fit = FrameFitter(8, 8)
    black = fit(np.zeros((8, 8, 3), np.uint8))
    fit(np.full((8, 8, 3), 255, np.uint8))
    assert not black.any()


@pytest.mark.parametrize("platform", CORES)
def test_named_actions_are_buttons_that_the_core_reports(platform: str) -> None:
    buttons = stable_retro.get_system_info(CORES[platform])["buttons"]
    for action, button in BUTTONS[platform].items():
        assert action_buttons(action, platform.title(), buttons) == [button]
    assert action_buttons("RIGHT+ACTION_JUMP", platform, buttons) == ["RIGHT", BUTTONS[platform]["ACTION_JUMP"]]
    assert action_buttons("NOOP", platform, buttons) == []


def test_missing_button_falls_back_and_unknown_action_lists_the_known_ones() -> None:
    atari = stable_retro.get_system_info("Atari2600")["buttons"]
    assert action_buttons("ACTION_SECONDARY", "Atari2600", atari) == ["BUTTON"]
    assert action_buttons("ACTION_JUMP", "Genesis", ["B", "LEFT"]) == ["B"]
    with pytest.raises(ValueError, match=r"'JUMP' is unknown on Atari2600; known are NOOP, ACTION_JUMP.*BUTTON"):
        action_buttons("JUMP", "Atari2600", atari)


def select(**config: object) -> RetroActConnector:
    return RetroActConnector(ConnectorConfig(**config))  # type: ignore[arg-type]


@pytest.mark.parametrize("game", [GAME, f"{GAME}-v0", [GAME], [f"{GAME}-v0"]])
def test_game_ids_with_or_without_version(game: object) -> None:
    assert select(game=game).select().games == [GAME]
    assert select(game=game).environment_name(GAME) == "retro_airstriker-genesis"


def test_unknown_game_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"game=SuperMarioBro-Nes: .* did you mean SuperMarioBros-Nes"):
        select(game="SuperMarioBro-Nes").select()


def test_game_without_rom_tells_the_import_command() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no ROM of the game SuperMarioBros-Nes; .*python -m stable_retro.import"
    ):
        select(game="SuperMarioBros-Nes").select()


def test_games_without_rom_are_skipped_among_others() -> None:
    selection = select(game=["SuperMarioBros-Nes", GAME]).select()
    assert selection.games == [GAME]
    assert list(selection.skipped) == ["SuperMarioBros-Nes"]


def test_no_rom_at_all_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"any of the 2 games, such as .*stable_retro.import"):
        select(game=["SuperMarioBros-Nes", "Smurfs-Genesis"]).select()


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, str]:
    """A behaviour table without and a control table with the trailing columns."""
    behavior = tmp_path / "behavior.csv"
    behavior.write_text(
        "game,tags\n"
        f"{GAME},top v space_shooter\nSuperMarioBros-Nes,side h pl\nFlintstones-Genesis,side free pl\n"
        "Smurfs-Genesis,side free pl\nTetris-Nes,side fixed tetris\n\nNobodyKnowsThis-Nes,side h pl\nPong-Nes,new\n"
    )
    control = tmp_path / "control.csv"
    control.write_text(
        "game,RIGHT,LEFT,UP,DOWN,ACTION_JUMP,ACTION_SECONDARY,transition,Background_Changes,source,confidence\n"
        "supermariobros-nes,right,left,none,crouch,jump,none,YES,YES,knowledge,high\n"
        "flintstones-genesis,right,left,climb,crouch,jump,strike,NO,YES,played,high\n"
        "smurfs-genesis,right,left,jump,crouch,jump,none,NO,YES,knowledge,low\n"
    )
    return {"annotation_behavior_fpath": str(behavior), "annotation_control_fpath": str(control)}


def candidates(**config: object) -> list[str]:
    return select(**config).candidates()


def test_filters_choose_by_tags_and_platform(tables: dict[str, str]) -> None:
    behavior = {"annotation_behavior_fpath": tables["annotation_behavior_fpath"]}
    platformers = ["Flintstones-Genesis", "Smurfs-Genesis", "SuperMarioBros-Nes"]
    assert candidates(genre=["pl"], **behavior) == platformers
    assert candidates(genre="pl", platform="genesis", **behavior) == platformers[:2]
    assert candidates(view=["top"], **behavior) == [GAME]
    assert candidates(motion=["h", "v"], **behavior) == [GAME, "SuperMarioBros-Nes"]
    assert candidates(genre=["pl"], limit_games=1, **behavior) == platformers[:1]
    assert candidates(game=GAME, view="top", **behavior) == [GAME]
    with pytest.raises(ValueError, match="no game left by genre=\\['race'\\]"):
        candidates(genre=["race"], **behavior)
    with pytest.raises(ValueError, match=f"game={GAME}: omitted by genre="):
        candidates(game=[GAME], genre=["pl"], **behavior)


def test_controls_choose_by_regular_expressions(tables: dict[str, str]) -> None:
    assert candidates(genre=["pl"], **tables) == ["Flintstones-Genesis", "SuperMarioBros-Nes"]
    assert candidates(genre=["pl"], action_map={"UP": "jump"}, **tables) == ["Smurfs-Genesis"]
    with pytest.raises(ValueError, match="no column 'FLY'"):
        candidates(genre=["pl"], action_map={"FLY": "fly"}, **tables)
    with pytest.raises(ValueError, match=r"^action_map\.UP=\*\[: is no regular expression \(.*\); write it as"):
        candidates(genre=["pl"], action_map={"UP": "*["}, **tables)


def test_tables_are_read_with_or_without_trailing_columns(tables: dict[str, str]) -> None:
    rows = read_behavior(Path(tables["annotation_behavior_fpath"]))
    assert [row.platform for row in rows[:2]] == ["Genesis", "Nes"]
    assert rows[0].confidence == ""
    controls = read_controls(Path(tables["annotation_control_fpath"]))
    assert controls["flintstones-genesis"].confidence == "high"
    assert not controls["flintstones-genesis"].transition
    assert "source" not in controls["flintstones-genesis"].actions


def test_missing_table_names_file_and_key() -> None:
    with pytest.raises(FileNotFoundError, match=r"annotation_control_fpath=nothing\.csv: no such table"):
        candidates(game=GAME, annotation_control_fpath="nothing.csv")
    with pytest.raises(FileNotFoundError, match=r"annotation_behavior_fpath=nothing\.csv"):
        candidates(genre=["pl"], annotation_behavior_fpath="nothing.csv")
    with pytest.raises(FileNotFoundError, match=r"roi_annotation_fpath=roi\.csv: no such table"):
        candidates(roi_annotation_fpath="roi.csv")


def test_bad_table_names_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("game,tags\nA-Nes,side h pl\nB-Nes,side pl\n")
    with pytest.raises(ValueError, match=r"bad.csv:3: tags 'side pl' of B-Nes"):
        read_behavior(path)
    path.write_text("name,tags\n")
    with pytest.raises(ValueError, match="no column 'game'"):
        read_behavior(path)
