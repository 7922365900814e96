"""Several runs of the generator in one folder: those of one recipe share it, of two recipes only one gets it."""

import fcntl
import os
from pathlib import Path

import pytest

from data_generation.config import GenerateConfig
from data_generation.data.data import DatasetInfo, EpisodeWriter
from data_generation.generate import generate
from data_generation.generator.connector_base import make_connector
from data_generation.generator.generator import GenerationFailed, run
from data_generation.generator.plan import EpisodeTask, make_plan
from data_generation.generator.worker import GenerationJob, Player
from tests.generator_helpers import counting_config, episodes


def config_of(dpath: Path, seed: int, n_sessions: int = 2) -> GenerateConfig:
    cfg = counting_config(dpath, ["one"], n_sessions)
    cfg.config.seed = seed
    return cfg


def begin(cfg: GenerateConfig) -> tuple[GenerationJob, list[EpisodeTask]]:
    """A run that has looked at its folder and made no episode yet."""
    connector = make_connector(cfg.config.connector)
    plan = make_plan(cfg.config, connector)
    return GenerationJob(cfg.config, connector, "config", plan.infos), plan.missing


@pytest.mark.parametrize("refused_first", [True, False])
def test_two_recipes_that_start_in_an_empty_folder_are_not_mixed(
    counting: None, tmp_path: Path, refused_first: bool
) -> None:
    first, second = begin(config_of(tmp_path / "both", 0, 3)), begin(config_of(tmp_path / "both", 1))
    if not refused_first:
        run(*second)
    message = (
        r"config\.dname=t: another run has begun to fill '.*', with config\.seed=1 \(here 0\); set config\.dname to"
    )
    with pytest.raises(GenerationFailed, match=message):
        run(*first)
    if refused_first:
        assert not list(tmp_path.rglob("*.episode"))
        run(*second)
    generate(config_of(tmp_path / "alone", 1))
    assert episodes(tmp_path / "both") == episodes(tmp_path / "alone")


def test_runs_of_one_recipe_share_an_empty_folder(counting: None, tmp_path: Path) -> None:
    first, second = begin(config_of(tmp_path, 0, 3)), begin(config_of(tmp_path, 0, 2))
    assert (run(*first).num_episodes, run(*second).num_episodes) == (3, 2)
    assert generate(config_of(tmp_path, 0, 4)).num_kept == 3


def test_a_run_that_made_nothing_leaves_the_folder_to_other_settings(counting: None, tmp_path: Path) -> None:
    begin(config_of(tmp_path, 0))
    assert generate(config_of(tmp_path, 1)).num_made == 2


def is_free(folder: Path, kind: int) -> bool:
    """Whether a second run would get the folder's lock now."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_no_episode_gets_its_place_while_a_folder_is_claimed_and_the_other_way_round(
    counting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a look into the folder and what is decided by it, nothing of the other kind can happen."""
    dataset = tmp_path / "counting_v0.0.0_t"
    found = {}

    def save(self: DatasetInfo, env_dpath: Path, real=DatasetInfo.save) -> Path:
        found["while it is claimed"] = is_free(dataset, fcntl.LOCK_SH)
        return real(self, env_dpath)

    def commit(self: EpisodeWriter, real=EpisodeWriter.commit) -> Path:
        found["by a claim"] = is_free(dataset, fcntl.LOCK_EX)
        found["by another episode"] = is_free(dataset, fcntl.LOCK_SH)
        return real(self)

    monkeypatch.setattr(DatasetInfo, "save", save)
    monkeypatch.setattr(EpisodeWriter, "commit", commit)
    job, tasks = begin(config_of(tmp_path, 0))
    Player(job, lambda *args, **kwargs: None).play(tasks[0])
    assert found == {"while it is claimed": False, "by a claim": False, "by another episode": True}
    assert is_free(dataset, fcntl.LOCK_EX)
