"""A dataset that several machines make: each makes its part, and together they make what one would have made."""

import filecmp
import subprocess
import sys
from pathlib import Path

import pytest

from data_generation.data.errors import UserError
from data_generation.generate import generate
from data_generation.generator.connector_base import make_connector
from data_generation.generator.plan import make_plan
from tests.generator_helpers import ROOT, counting_config, episodes, retro_config

pytestmark = pytest.mark.usefixtures("environments_in_threads")

GAMES = ["one", "three", "two"]


def shard_config(dpath: Path, shard: int, num_shards: int):
    cfg = counting_config(dpath, GAMES, n_sessions=3)
    cfg.config.connector.generator_config.n_instances = 2
    cfg.config.num_shards, cfg.config.shard = num_shards, shard
    return cfg


@pytest.mark.parametrize("num_shards", [1, 4, 7, 18])
def test_every_episode_is_in_one_shard(counting, tmp_path, num_shards):
    parts = []
    for shard in range(num_shards):
        config = shard_config(tmp_path, shard, num_shards).config
        parts.append([str(task) for task in make_plan(config, make_connector(config.connector)).missing])
    everything = [name for part in parts for name in part]
    assert len(everything) == len(set(everything)) == 18
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_in_one_folder_are_the_dataset_of_one_machine(counting, tmp_path):
    for shard in (3, 0, 1, 2):
        generate(shard_config(tmp_path / "shards", shard, 4))
    one = shard_config(tmp_path / "one", 0, 1)
    generate(one)
    assert episodes(tmp_path / "shards") == episodes(tmp_path / "one")
    one.config.data_dpath = str(tmp_path / "shards")
    assert generate(one).num_made == 0


def test_a_shard_goes_on_and_keeps_what_others_made(counting, tmp_path):
    made = generate(shard_config(tmp_path, 1, 4))
    lost = min(tmp_path.rglob("*.episode"))
    lost.unlink()
    generate(shard_config(tmp_path, 0, 4))
    again = generate(shard_config(tmp_path, 1, 4))
    assert (again.num_made, again.num_kept) == (1, made.num_made - 1)
    assert lost.is_file()


@pytest.mark.parametrize(
    ("shard", "num_shards", "message"),
    [
        (4, 4, r"config\.shard=4: must be below config\.num_shards=4; count from 0"),
        (0, 19, r"num_shards=19: .* 18 episodes"),
    ],
)
def test_shards_that_cannot_be_are_refused(counting, tmp_path, shard, num_shards, message):
    with pytest.raises(UserError, match=message):
        generate(shard_config(tmp_path, shard, num_shards))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "package", "extra"), [("local", "submitit", "launchers"), ("ray_jobs", "ray", "ray")]
)
def test_shards_through_a_launcher_are_the_dataset_of_one_machine(tmp_path, launcher, package, extra):
    pytest.importorskip(package, reason=f"install.sh --with {extra}")
    generate(retro_config(tmp_path / "one", n_sessions=5))
    keys = [
        *("config.connector.game=Airstriker-Genesis", f"config.data_dpath={tmp_path / 'many'}", "config.dname=t"),
        *("config.connector.valid_action_combos=[RIGHT,LEFT,ACTION_SECONDARY]", "config.connector.variant=random"),
        *(f"config.connector.generator_config.{key}" for key in ("n_sessions=5", "n_workers=1", "n_steps_max=40")),
    ]
    shards = ["config.num_shards=3", "-m", "config.shard=range(3)", f"hydra/launcher={launcher}"]
    command = [sys.executable, "run.py", "generate", *keys, *shards, f"hydra.sweep.dir={tmp_path / 'record'}"]
    subprocess.run(command, cwd=ROOT, check=True)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    names = [str(path) for path in files if path.name != "index.bin"]
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "many", names, shallow=False) == (names, [], [])
    assert len(names) == 6
