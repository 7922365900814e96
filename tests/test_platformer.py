"""The project's own platformer: its ROM, its Stable-Retro integration, and that its levels can be won."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import stable_retro
from stable_retro.data import Integrations

from external.platformer import build
from external.platformer.tools.graphics import THEMES
from external.platformer.tools.play import DOWN, GAME, JUMP, LEFT, RIGHT, UP, FreeGame, replay, select_instance
from external.platformer.tools.solve_levels import read_solutions

GROUND, AIR, CLIMBING, CROUCHING = range(4)
STEP_REWARD, COIN_REWARD, GOAL_REWARD = 1, 2, 50  # as in scenario.json


@pytest.fixture(scope="module")
def game() -> Iterator[FreeGame]:
    game = FreeGame()
    yield game
    game.close()


@pytest.fixture(scope="module")
def solutions() -> dict[int, list[int]]:
    return read_solutions()


def play_frames(game: FreeGame, seed: int, actions: list[int]) -> str:
    """Digest of all images after each action."""
    game.start(seed)
    digest = hashlib.sha256(game.screen().tobytes())
    for action in actions:
        game.act(action)
        digest.update(game.screen().tobytes())
    return digest.hexdigest()


def wait(game: FreeGame, num_frames: int) -> None:
    """Let frames pass without a button, also beyond the episode's end."""
    game.env.em.set_button_mask(np.zeros_like(game.masks[0]), 0)
    for _ in range(num_frames):
        game.env.em.step()
    game.env.data.update_ram()


def some_actions(seed: int, count: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return rng.choice([RIGHT, LEFT, UP, DOWN, JUMP], count, p=[0.5, 0.1, 0.1, 0.1, 0.2]).tolist()


@pytest.mark.skipif(bool(build.missing_tools()), reason="cc65 is not installed")
def test_rom_is_built_from_the_committed_sources(tmp_path: Path) -> None:
    rom_fpath = build.build(tmp_path, tmp_path / "build")
    assert rom_fpath.read_bytes() == (build.INTEGRATION_DPATH / build.ROM_FNAME).read_bytes()
    assert (tmp_path / build.SHA_FNAME).read_text() == (build.INTEGRATION_DPATH / build.SHA_FNAME).read_text()


def test_rom_has_the_checksum_that_the_integration_names() -> None:
    rom = (build.INTEGRATION_DPATH / build.ROM_FNAME).read_bytes()
    assert rom[:8] == b"NES\x1a\x02\x01\x01\x00"  # 32 KiB program, 8 KiB tiles, vertical mirroring, mapper 0
    assert len(rom) == 16 + 0x8000 + 0x2000
    assert hashlib.sha1(rom[16:]).hexdigest() == (build.INTEGRATION_DPATH / build.SHA_FNAME).read_text().strip()


def test_stable_retro_lists_the_game_and_its_states(game: FreeGame) -> None:
    assert GAME in stable_retro.data.list_games(Integrations.ALL)
    states = stable_retro.data.list_states(GAME, Integrations.ALL)
    assert states == [f"Level{seed:02d}" for seed in range(60)]
    assert stable_retro.data.verify_hash(GAME, Integrations.ALL) == []


@pytest.mark.parametrize("seed", [0, 1, 8, 59, 1234, 65534])
def test_level_starts_with_sane_values(game: FreeGame, seed: int) -> None:
    game.start(seed)
    assert game.value("seed") == game.value("built_seed") == seed
    assert game.value("theme") == seed % len(THEMES)
    expected = {"ready": 1, "level": 1, "lives": 3, "coins": 0, "score": 0, "death": 0, "goal": 0, "x": 40, "max_x": 40}
    assert {name: game.value(name) for name in expected} == expected
    assert 96 <= game.value("y") <= 192
    assert game.value("y") % 16 == 0
    assert 152 <= game.value("level_columns") <= 200
    assert game.value("num_enemies") <= 28


def test_seed_out_of_range_is_refused(game: FreeGame) -> None:
    with pytest.raises(ValueError, match="seed=65535"):
        select_instance(game.env, 65535)


def test_same_seed_and_actions_give_same_frames(game: FreeGame) -> None:
    actions = some_actions(3, 120)
    first = play_frames(game, 4, actions)
    play_frames(game, 9, actions[:20])
    assert play_frames(game, 4, actions) == first


def test_seeds_of_one_theme_differ(game: FreeGame) -> None:
    actions = [RIGHT, JUMP, JUMP, RIGHT, RIGHT] * 8
    assert len({play_frames(game, seed, actions) for seed in range(0, 60, 6)}) == 10


@pytest.mark.parametrize("seed", [7, 34])
def test_selected_seed_equals_the_shipped_state(game: FreeGame, seed: int) -> None:
    actions = some_actions(seed, 60)
    selected = play_frames(game, seed, actions)
    state_fpath = build.INTEGRATION_DPATH / f"Level{seed:02d}.state"
    game.env.initial_state = gzip.decompress(state_fpath.read_bytes())
    game.env.reset()
    digest = hashlib.sha256(game.screen().tobytes())
    for action in actions:
        game.act(action)
        digest.update(game.screen().tobytes())
    assert digest.hexdigest() == selected


def test_saved_state_in_mid_level_replays(game: FreeGame) -> None:
    """The level stands in the cartridge's work RAM, which a state must hold as well."""
    game.start(2)
    for action in some_actions(5, 40):
        game.act(action)
    state = game.env.em.get_state()
    runs = []
    for _ in range(2):
        game.env.em.set_state(state)
        for action in some_actions(6, 40):
            game.act(action)
        runs.append((game.screen().tobytes(), game.value("x"), game.value("y"), game.value("score")))
        game.start(11)
    assert runs[0] == runs[1]


def test_jump_is_higher_the_longer_it_is_held(game: FreeGame) -> None:
    heights = []
    for count in (1, 3, 6):
        game.start(0)
        ground = highest = game.value("y")
        for action in [JUMP] * count + [UP] * 12:
            game.act(action)
            highest = min(highest, game.value("y"))
        heights.append(ground - highest)
        assert game.value("y") == ground
    assert heights[0] < heights[1] < heights[2]
    assert 28 <= heights[0] <= 40
    assert 48 <= heights[2] <= 60


def test_speed_is_kept_in_the_air_without_a_direction(game: FreeGame) -> None:
    game.start(0)
    for action in [RIGHT] * 4 + [JUMP]:
        game.act(action)
    assert game.value("hero_state") == AIR
    speed = game.value("speed_x")
    game.act(JUMP)
    assert game.value("speed_x") == speed > 0


def test_run_accelerates_and_slows_down(game: FreeGame) -> None:
    game.start(0)
    speeds = []
    for action in [RIGHT] * 5 + [UP] * 5:
        game.act(action)
        speeds.append(game.value("speed_x"))
    assert speeds[0] < speeds[1] < speeds[4] == 36
    assert speeds[-1] == 0
    game.act(LEFT)
    assert game.value("speed_x") < 0


def test_down_crouches(game: FreeGame) -> None:
    game.start(0)
    game.act(DOWN)
    assert game.value("hero_state") == CROUCHING
    game.act(RIGHT)
    assert game.value("hero_state") == GROUND


def test_ladder_is_climbed_up_and_down(game: FreeGame, solutions: dict[int, list[int]]) -> None:
    """Somewhere in a solution the character hangs on a ladder: UP leads up from there, DOWN leads down."""
    for seed, actions in solutions.items():
        game.start(seed)
        for action in actions:
            game.act(action)
            if game.value("hero_state") == CLIMBING and action == UP:
                y = game.value("y")
                game.act(DOWN)
                assert game.value("y") > y
                game.act(UP)
                game.act(UP)
                assert game.value("y") < y
                return
    pytest.fail("no solution climbs a ladder")


@pytest.mark.parametrize("seed", [0, 4])
def test_episode_ends_at_death(game: FreeGame, seed: int) -> None:
    """A character that runs and jumps on without looking dies."""
    game.start(seed)
    for _ in range(150):
        if any(game.act(action) for action in (RIGHT, RIGHT, RIGHT, JUMP, JUMP, JUMP, UP)):
            break
    assert game.value("death") in (1, 2, 3)
    assert game.value("goal") == 0
    assert game.value("lives") == 2


def test_solution_reaches_the_goal_and_its_reward(game: FreeGame, solutions: dict[int, list[int]]) -> None:
    actions = solutions[0]
    game.start(0)
    total, terminated = 0.0, False
    for action in actions:
        for _ in range(4):
            assert not terminated
            _, reward, terminated, truncated, info = game.env.step(game.masks[action])
            total += reward
            assert not truncated
            if terminated:
                break
    assert terminated
    assert info["goal"] == 1
    assert info["death"] == 0
    assert info["lives"] == 3
    assert info["late_frames"] == 0
    progress = info["progress"] - 40 // 16
    assert total == STEP_REWARD * progress + COIN_REWARD * info["coins"] + GOAL_REWARD
    assert info["score"] == 10 * info["coins"] + 20 * info["kills"] + 100


def test_next_level_follows_the_goal(game: FreeGame, solutions: dict[int, list[int]]) -> None:
    assert replay(game, 1, solutions[1])
    wait(game, 160)  # who plays on past the end of the episode: the character cheers, then the next level is built
    assert game.value("ready") == 1
    assert (game.value("level"), game.value("built_seed"), game.value("goal")) == (2, 2, 0)
    assert game.value("score") >= 100


def test_level_starts_anew_after_a_death(game: FreeGame) -> None:
    game.start(0)
    while not game.act(JUMP if game.value("hero_state") == AIR and game.value("speed_y") < 0 else RIGHT):
        if game.value("speed_x") == 0:
            game.act(JUMP)
    wait(game, 160)
    assert (game.value("ready"), game.value("death"), game.value("x"), game.value("lives")) == (1, 0, 40, 2)


@pytest.mark.slow
def test_levels_can_be_won(game: FreeGame, solutions: dict[int, list[int]]) -> None:
    """Every twelfth solution is replayed: there may be hundreds."""
    tried = dict(list(solutions.items())[::12])
    assert [seed for seed, actions in tried.items() if replay(game, seed, actions)] == list(tried)
    assert len(tried) >= 3
