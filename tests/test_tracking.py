"""Recording around one character: it is followed where it really is, and the mask says what of a frame is the game."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from auto_explore.config import CollectionConfig
from auto_explore.src.agent import AgentInfo, save_agent
from auto_explore.src.run_context import open_connector
from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate
from data_generation.generator.connector_base import make_connector
from data_generation.generator.connector_retro_act import RetroActConnector
from data_generation.generator.policy import make_policy
from data_generation.generator.tracking import Box, CharacterTracker, TrackedEnv, read_boxes
from models.config import ModelConfig

GAME = "Cinderfoot-Nes"
BOXES = "RetroAct_roi.csv"
BORDER = 8  # pixels of the console's image that the emulator cuts off at the left and at the top
HALF_HEIGHT = 16


def config(**settings: object) -> ConnectorConfig:
    return ConnectorConfig(game=GAME, roi_annotation_fpath=BOXES, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0, 7])
def test_a_character_is_followed_within_a_few_pixels_for_a_whole_episode(level: int) -> None:
    env = RetroActConnector(config()).make_env(GAME, level)
    rng = np.random.default_rng(level)
    env.reset()
    errors = []
    for _ in range(250):
        _, _, terminated, truncated, info = env.step(int(rng.integers(5)))
        there = info["x"] - info["camera_x"] - BORDER, info["y"] - BORDER - HALF_HEIGHT
        errors.append(np.hypot(info["roi_x"] - there[0], info["roi_y"] - there[1]))
        assert not truncated
        if terminated:
            break
    env.close()
    assert len(errors) > 50
    assert np.mean(errors) < 4  # of a character of 14 x 32
    assert max(errors) < 16


class Scene(gym.Env[np.ndarray, int]):
    """A grey world in which a striped character of 6 x 8 pixels walks to the right, and vanishes after 40 steps."""

    def __init__(self) -> None:
        self.action_space = gym.spaces.Discrete(1)
        self.observation_space = gym.spaces.Box(0, 255, (3, 20, 20), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.time = 0
        return np.zeros((3, 20, 20), np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        return np.zeros((3, 20, 20), np.uint8), 1.0, False, False, {"time": self.time}

    def render(self) -> np.ndarray:
        image = np.full((60, 80, 3), 90, np.uint8)
        if self.time <= 40:
            x = min(2 + 2 * self.time, 74)
            image[30:38, x : x + 6] = np.array([[200, 0, 0], [0, 0, 200]] * 3, np.uint8)
        return image


def test_frames_show_the_character_in_their_middle_and_black_beyond_the_image() -> None:
    env = TrackedEnv(Scene(), Box(2, 30, 6, 8), (20, 20))
    first, numbers = env.reset()
    # 40 pixels of the image (five heights) in 20 of the frame; the character's middle is 5 from the left edge.
    mask = _shows_the_game(numbers, 20)
    assert mask[:, 8:].all()
    assert not mask[:, :7].any()
    assert not first[:, ~mask].any()
    assert (first[:, mask].max(0) > 0).all()
    for step in range(1, 30):
        frame, _, _, truncated, info = env.step(0)
        assert not truncated
        assert (info["roi_x"], info["roi_y"]) == (5 + 2 * step, 34)
        assert frame[0, 10, 8:12].max() > 95  # red of the character
        assert info["time"] == step


def test_episode_ends_when_the_character_is_lost() -> None:
    env = TrackedEnv(Scene(), Box(2, 30, 6, 8), (20, 20))
    env.reset()
    ends = [env.step(0)[3] for _ in range(60)]
    assert 40 < ends.index(True) <= 50
    env.reset()
    assert not env.step(0)[3]


def test_a_plain_background_is_not_taken_for_the_character() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:30, 20:28] = np.random.default_rng(0).integers(255, size=(10, 8, 3), dtype=np.uint8)
    tracker = CharacterTracker(image, Box(20, 20, 8, 10))
    assert tracker.update(image)
    assert tracker.box == (20, 20, 8, 10)
    for _ in range(20):
        is_found = tracker.update(np.zeros_like(image))
    assert not is_found
    assert tracker.box == (20, 20, 8, 10)


def test_dataset_holds_where_the_character_is(tmp_path: Path) -> None:
    made = {}
    for n_workers in (1, 2):
        sizes = GeneratorConfig(n_instances=2, n_sessions=1, n_steps_max=20, n_workers=n_workers)
        dpath = tmp_path / str(n_workers)
        generate(GenerateConfig(DatasetConfig(config(generator_config=sizes), data_dpath=str(dpath))))
        made[n_workers] = [path.read_bytes() for path in sorted(dpath.rglob("*.episode"))]
    assert made[1] == made[2]
    (env_dpath,) = list_environments(tmp_path / "1" / "retro_act_v0.0.0")
    environment = Environment(env_dpath)
    assert environment.info.connector["roi_annotation_fpath"] == BOXES
    with environment.open(1) as episode:
        for time in range(20):
            numbers = {name: column[time] for name, column in episode.infos.items()}
            frame = episode.frames(time + 1, time + 2)[0]
            assert not frame[:, ~_shows_the_game(numbers, 64)].max(initial=0)


def _shows_the_game(numbers: dict[str, float], size: int) -> np.ndarray:
    """Mask (size, size) of a recorded frame: False in the black beyond the game's image."""
    left, top, right, bottom = (int(numbers[f"roi_{edge}"]) for edge in ("left", "top", "right", "bottom"))
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_boxes_are_checked(tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    with pytest.raises(FileNotFoundError, match=r"roi_annotation_fpath=nothing.csv: no such table; it has the columns"):
        RetroActConnector(ConnectorConfig(game=GAME, roi_annotation_fpath="nothing.csv"))
    table.write_text("game,x,y,w\n")
    with pytest.raises(ValueError, match="no column 'h'"):
        read_boxes(table)
    table.write_text(f"game,x,y,w,h\n{GAME},1,2,3,none\n")
    with pytest.raises(ValueError, match=rf"boxes.csv:2: the box of {GAME} is not four numbers"):
        read_boxes(table)
    table.write_text("game,x,y,w,h\nAirstriker-Genesis-v0,1,2,3,4\n")
    settings = {"roi_annotation_fpath": str(table)}
    with pytest.raises(ValueError, match=rf"roi_annotation_fpath=.*boxes.csv: no box for .* of {GAME}; add a row"):
        RetroActConnector(ConnectorConfig(game=GAME, **settings)).select()  # type: ignore[arg-type]
    connector = RetroActConnector(ConnectorConfig(game=[GAME, "Airstriker-Genesis"], **settings))  # type: ignore[arg-type]
    assert list(connector.select().skipped) == [GAME]
    with pytest.raises(ValueError, match="characters are followed in retro games only"):
        make_connector(ConnectorConfig(name="gymnasium", game="CartPole-v1", roi_annotation_fpath=BOXES))


def test_an_agent_sees_what_its_world_model_knows() -> None:
    cfg = CollectionConfig(games=[GAME])
    for table, seen in (("", ""), (BOXES, BOXES)):
        connector = open_connector(cfg, ModelConfig(roi_table=table))
        assert connector.roi_table == seen
    assert open_connector(cfg, None).roi_table == ""
    with pytest.raises(FileNotFoundError, match=r"^connector.roi_annotation_fpath=heroes.csv: no such table"):
        open_connector(cfg, ModelConfig(roi_table="heroes.csv"))


@pytest.mark.parametrize(("table", "other"), [("", BOXES), (BOXES, "")])
def test_an_agent_plays_what_it_was_trained_on(tmp_path: Path, table: str, other: str) -> None:
    settings = {"variant": "auto_explore", "game": GAME, "roi_annotation_fpath": other or None}
    connector = RetroActConnector(ConnectorConfig(**settings))  # type: ignore[arg-type]
    info = AgentInfo(connector.action_names, connector.frame_shape, "nature", epoch=1, roi_table=table)
    checkpoint = tmp_path / "agent.pt"
    save_agent(checkpoint, info.build(), info)
    connector.config.agent.checkpoint_fpath = str(checkpoint)
    with pytest.raises(ValueError, match=rf"set roi_annotation_fpath={table or 'null'}"):
        make_policy(connector)
    connector.config.roi_annotation_fpath = table or None
    make_policy(connector)


def test_own_states_have_boxes_of_their_own(tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text(f"game,state,x,y,w,h\n{GAME},,1,1,8,8\n{GAME},Level01,2,2,8,8\n")
    connector = RetroActConnector(ConnectorConfig(game=GAME, roi_annotation_fpath=str(table)))
    assert connector.box_of(GAME, "Level01") == Box(2, 2, 8, 8)
    assert connector.box_of(GAME, "Level02") == Box(1, 1, 8, 8)
    table.write_text(f"game,state,x,y,w,h\n{GAME},Level01,2,2,8,8\n")
    with pytest.raises(ValueError, match="no box for the start state 'Level00'"):
        RetroActConnector(ConnectorConfig(game=GAME, roi_annotation_fpath=str(table))).make_env(GAME, 0)


def marking(tmp_path: Path, states: int, games: list[str]) -> GenerateConfig:
    """Two levels of each game, around a character of which Cinderfoot's first `states` levels have a box."""
    table = tmp_path / "boxes.csv"
    rows = [f"{GAME},Level{number:02},40,100,14,32" for number in range(states)]
    table.write_text("\n".join(["game,state,x,y,w,h", *rows, "Airstriker-Genesis,,1,1,8,8"]))
    sizes = GeneratorConfig(n_instances=2, n_sessions=1, n_steps_max=2, n_workers=1)
    connector = ConnectorConfig(game=games, roi_annotation_fpath=str(table), generator_config=sizes)
    return GenerateConfig(DatasetConfig(connector, data_dpath=str(tmp_path / "datasets")))


def test_a_missing_box_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"config.connector.roi_annotation_fpath=.*: no box for the start state 'Level01' of Cinderfoot-Nes; "
        r"add a row, or play fewer start states \(config.connector.generator_config.n_instances\)",
    ):
        generate(marking(tmp_path, 1, [GAME]))
    assert not (tmp_path / "datasets").exists()
    assert generate(marking(tmp_path, 2, [GAME])).num_made == 2


def test_a_game_with_a_missing_box_is_skipped_among_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generated = generate(marking(tmp_path, 1, [GAME, "Airstriker-Genesis"]))
    assert (generated.num_environments, generated.num_skipped_games) == (1, 1)
    assert "1 game, no box for the start state 'Level01' of Cinderfoot-Nes: Cinderfoot-Nes" in capsys.readouterr().out
