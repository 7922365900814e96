"""The generator: what it is asked for, the same episodes however they are made."""

from multiprocessing import active_children
from pathlib import Path

import pytest

from data_generation.data.data import DatasetInfo, Environment, episode_path, list_environments
from data_generation.generate import Generated, generate
from data_generation.generator.connector_base import CONNECTORS
from data_generation.generator.generator import MAX_FAILURES, GenerationFailed
from tests.generator_helpers import ACTIONS, CountingConnector, CountingEnv, counting_config, episodes, retro_config
from tests.thread_children import children_in_processes

pytestmark = pytest.mark.usefixtures("environments_in_threads")


@pytest.fixture(scope="module")
def airstriker(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Generated]:
    """Four short episodes, made by one worker without a break."""
    dpath = tmp_path_factory.mktemp("reference")
    return dpath, generate(retro_config(dpath, n_sessions=4))


def test_dataset_holds_what_was_asked_for(airstriker: tuple[Path, Generated]) -> None:
    dpath, made = airstriker
    (env_dpath,) = list_environments(dpath / "retro_act_v0.0.0_t")
    assert env_dpath.name == "retro_airstriker-genesis_v0.0.0_t"
    environment = Environment(env_dpath)
    assert environment.info.action_names == ACTIONS
    assert environment.info.frame_shape == (3, 64, 64)
    assert environment.num_frames.tolist() == [41] * 4
    assert (made.num_made, made.num_kept, made.num_frames) == (4, 0, 164)
    with environment.open(0) as episode:
        assert episode.truncated.tolist() == [False] * 39 + [True]
        assert not episode.terminated.any()
        assert set(episode.infos) == {"gameover", "lives", "score"}
        assert episode.meta.game == "Airstriker-Genesis"
        frames = episode.frames()
        assert len({frame.tobytes() for frame in frames}) > 20
        assert frames.std() > 10
    different = {environment.open(i).actions.tobytes() for i in range(4)}
    assert len(different) == 4


def test_same_bytes_for_any_number_of_workers(airstriker: tuple[Path, Generated], tmp_path: Path) -> None:
    with children_in_processes():
        generate(retro_config(tmp_path, n_sessions=4, n_workers=2))
    assert episodes(tmp_path) == episodes(airstriker[0])
    assert not active_children()


def test_another_seed_gives_other_episodes(airstriker: tuple[Path, Generated], tmp_path: Path) -> None:
    cfg = retro_config(tmp_path, n_sessions=1)
    cfg.config.seed = 1
    generate(cfg)
    name = "retro_act_v0.0.0_t/retro_airstriker-genesis_v0.0.0_t/000000/000000.episode"
    assert episodes(tmp_path)[name] != episodes(airstriker[0])[name]


def test_more_sessions_are_added_to_complete_ones(airstriker: tuple[Path, Generated], tmp_path: Path) -> None:
    # More workers than episodes, too.
    generate(retro_config(tmp_path, n_sessions=1, n_workers=4))
    (first,) = tmp_path.rglob("000000.episode")
    time_made = first.stat().st_mtime_ns
    again = generate(retro_config(tmp_path, n_sessions=4))
    assert (again.num_made, again.num_kept, again.num_frames) == (3, 1, 164)
    assert first.stat().st_mtime_ns == time_made
    assert episodes(tmp_path) == episodes(airstriker[0])


def test_a_bad_file_that_was_there_is_counted_after_all_that_was_asked_for_is_made(
    counting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generated = generate(counting_config(tmp_path, ["one"], 3))
    (env_dpath,) = list_environments(generated.dataset_dpath)
    episode_path(env_dpath, 0, 2).write_bytes(b"no episode")
    again = generate(counting_config(tmp_path, ["one"], 2))
    assert (again.num_made, again.num_kept, again.num_bad) == (0, 2, 1)
    assert f"bad           1: 'python run.py data check {generated.dataset_dpath}' names" in capsys.readouterr().out
    assert generate(counting_config(tmp_path, ["one"], 3)).num_bad == 0


def test_nothing_to_do_makes_nothing(airstriker: tuple[Path, Generated], capsys: pytest.CaptureFixture[str]) -> None:
    dpath, _ = airstriker
    before = episodes(dpath)
    assert generate(retro_config(dpath, n_sessions=4)).num_made == 0
    assert episodes(dpath) == before
    printed = capsys.readouterr().out
    assert "0 made, 4 kept" in printed
    assert f"python run.py data view {dpath}/retro_act_v0.0.0_t" in printed


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda c: setattr(c, "seed", 5), "config.seed=0 (now 5)"),
        (lambda c: setattr(c.connector, "n_skip_frames", 2), "config.connector.n_skip_frames=4 (now 2)"),
        (lambda c: c.connector.valid_action_combos.pop(), "config.connector.valid_action_combos="),
        (lambda c: setattr(c.connector, "variant", "sticky_random"), "config.connector.variant=random (now sticky"),
        (lambda c: setattr(c.connector.generator_config, "n_steps_max", 7), "generator_config.n_steps_max=40 (now 7)"),
    ],
)
def test_other_settings_for_an_existing_folder_are_refused(airstriker, change, key) -> None:
    dpath, _ = airstriker
    before = episodes(dpath)
    cfg = retro_config(dpath, n_sessions=9)
    change(cfg.config)
    with pytest.raises(ValueError, match=r"holds episodes made with .*; set config.dname to a new name") as raised:
        generate(cfg)
    assert key in str(raised.value)
    assert "\n" not in str(raised.value)
    assert episodes(dpath) == before


def test_episodes_without_info_are_refused(counting, tmp_path: Path) -> None:
    generate(counting_config(tmp_path, ["one"]))
    for path in tmp_path.rglob("info.json"):
        path.unlink()
    with pytest.raises(ValueError, match=r"episodes but no info.json; delete that folder"):
        generate(counting_config(tmp_path, ["one"]))


def test_another_family_takes_a_few_lines(counting, tmp_path: Path) -> None:
    generate(counting_config(tmp_path, ["one", "two"]))
    one, two = list_environments(tmp_path / "counting_v0.0.0_t")
    assert (one.name, two.name) == ("counting_one_v0.0.0_t", "counting_two_v0.0.0_t")
    with Environment(one).open(1) as episode:
        assert episode.frames()[1:, 0, 0, 0].tolist() == list(range(1, 11))
        assert episode.terminated.tolist() == [False] * 9 + [True]
        assert not episode.truncated.any()
        assert episode.infos["steps"].tolist() == list(range(1, 11))
        assert "text" not in episode.infos
    seeds = {Environment(dpath).open(i).frames(0, 1)[0, 0, 0, 0] for dpath in (one, two) for i in range(2)}
    assert len(seeds) > 1


def test_failing_game_does_not_stop_the_others(counting, tmp_path: Path) -> None:
    with pytest.raises(
        GenerationFailed, match=r"not made: 2 of 6 episodes, first broken, .*RuntimeError: the emulator is on"
    ):
        generate(counting_config(tmp_path, ["one", "broken", "two"]))
    totals = [Environment(dpath).num_episodes for dpath in list_environments(tmp_path / "counting_v0.0.0_t")]
    assert totals == [0, 2, 2]
    assert not list(tmp_path.rglob("*.tmp"))


class HalfBrokenConnector(CountingConnector):
    """Games of whose two levels the second cannot be opened, and of "closed" neither."""

    def make_env(self, game: str, instance: int) -> CountingEnv:
        if instance or game == "closed":
            raise RuntimeError("the state is damaged")
        return CountingEnv(game)


def test_missing_episodes_of_a_game_that_plays_are_an_error_in_every_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(CONNECTORS, "counting", f"{__name__}:HalfBrokenConnector")
    cfg = counting_config(tmp_path, ["one", "closed"], n_sessions=2)
    cfg.config.connector.generator_config.n_instances = 2
    for num_missing in ("2 of 8", "2 of 6"):
        with pytest.raises(
            GenerationFailed, match=rf"not made: {num_missing} episodes, first one, instance 1.*damaged"
        ):
            generate(cfg)
    # A shard that has nothing else to make.
    cfg.config.connector.game, cfg.config.num_shards, cfg.config.shard = ["one"], 2, 1
    with pytest.raises(GenerationFailed, match="not made: 2 of 2 episodes"):
        generate(cfg)
    (env_dpath,) = list_environments(tmp_path / "counting_v0.0.0_t")
    assert env_dpath.name == "counting_one_v0.0.0_t"


class BadFirstLevelConnector(CountingConnector):
    """Games whose first level fails in every episode."""

    def make_env(self, game: str, instance: int) -> CountingEnv:
        return CountingEnv(game if instance else "broken")


@pytest.mark.parametrize("n_workers", [1, 2])
def test_bad_level_is_given_up_and_the_others_are_made(tmp_path: Path, monkeypatch, caplog, n_workers: int) -> None:
    monkeypatch.setitem(CONNECTORS, "counting", f"{__name__}:BadFirstLevelConnector")
    cfg = counting_config(tmp_path, ["one"], n_sessions=40)
    generator = cfg.config.connector.generator_config
    generator.n_instances, generator.n_workers = 2, n_workers
    with pytest.raises(GenerationFailed, match="not made: 40 of 80 episodes, first one, instance 0"):
        generate(cfg)
    assert MAX_FAILURES <= caplog.text.count("episode failed") < MAX_FAILURES + n_workers
    assert "one, instance 0: given up" in caplog.text
    (env_dpath,) = list_environments(tmp_path / "counting_v0.0.0_t")
    assert Environment(env_dpath).num_episodes == 40


def test_game_whose_levels_all_fail_is_given_up_at_once(counting, tmp_path: Path, caplog) -> None:
    cfg = counting_config(tmp_path, ["broken"], n_sessions=40)
    cfg.config.connector.generator_config.n_instances = 5
    with pytest.raises(GenerationFailed, match="not made: 200 of 200 episodes"):
        generate(cfg)
    assert caplog.text.count("episode failed") == MAX_FAILURES
    assert "broken: given up" in caplog.text


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"n_skip_start_frames": 3000}, "n_skip_start_frames=3000: Airstriker-Genesis-v0 ends before that; use less"),
        (
            {"roi_annotation_fpath": "boxes.csv"},
            r"roi_annotation_fpath: the box \(1, 1, 8, 999\) is not inside ",
        ),
    ],
)
def test_a_setting_that_does_not_suit_one_game_costs_no_other(tmp_path: Path, monkeypatch, settings, problem) -> None:
    monkeypatch.chdir(tmp_path)
    Path("boxes.csv").write_text("game,x,y,w,h\nAirstriker-Genesis,1,1,8,999\nCinderfoot-Nes,40,100,14,32\n")
    cfg = retro_config(tmp_path, n_sessions=1, n_steps_max=2)
    for name, value in settings.items():
        setattr(cfg.config.connector, name, value)
    with pytest.raises(GenerationFailed, match=rf"^config\.connector\.{problem}"):
        generate(cfg)
    cfg.config.connector.game, cfg.config.dname = ["Airstriker-Genesis", "Cinderfoot-Nes"], "both"
    cfg.config.connector.valid_action_combos = ["B"]
    with pytest.raises(GenerationFailed, match=rf"not made: 1 of 2 episodes, first Airstriker-.*connector\.{problem}"):
        generate(cfg)
    totals = [Environment(dpath).num_episodes for dpath in list_environments(tmp_path / "retro_act_v0.0.0_both")]
    assert totals == [0, 1]


def test_run_ends_when_everything_fails(counting, tmp_path: Path) -> None:
    with pytest.raises(
        GenerationFailed, match=r"not made: 50 of 50 episodes, first broken, .* the emulator is on fire"
    ):
        generate(counting_config(tmp_path, ["broken"], n_sessions=50))


def test_info_is_written_before_the_first_episode(counting, tmp_path: Path) -> None:
    with pytest.raises(GenerationFailed):
        generate(counting_config(tmp_path, ["broken"], n_sessions=3))
    (env_dpath,) = list_environments(tmp_path / "counting_v0.0.0_t")
    assert DatasetInfo.load(env_dpath).generator["n_sessions"] == 3
    assert not episode_path(env_dpath, 0, 0).exists()
    # Without a complete episode other settings mix nothing.
    cfg = counting_config(tmp_path, ["broken"], n_sessions=3)
    cfg.config.seed = 7
    with pytest.raises(GenerationFailed):
        generate(cfg)
    assert DatasetInfo.load(env_dpath).generator["seed"] == 7
