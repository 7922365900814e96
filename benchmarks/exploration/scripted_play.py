"""Test data of a policy that is neither random nor trained, so that it favours no data for fine-tuning.

python -m benchmarks.exploration.scripted_play <game> <dataset folder> <levels> <steps> <episodes>
"""

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.exploration.settings import GAMES, SCRIPTED_GAMES, Game
from data_generation.data.data import EpisodeMeta, EpisodeWriter, episode_path
from data_generation.generator.connector_base import Connector, make_connector
from data_generation.generator.episode import dataset_info, environment_dname, play_episode
from data_generation.generator.levels import Level, LevelEnv
from data_generation.generator.policy import EpsilonPolicy, ScriptedPolicy
from data_generation.generator.schedule import ScheduledEpisode

_SOLUTIONS = Path(__file__).parents[2] / "external" / "platformer" / "solutions.json"


def write_episodes(game: Game, dataset: Path, num_levels: int, num_steps: int, num_episodes: int) -> None:
    """Play the first levels: Cinderfoot by the known ways to its gates, CoinRun by running and jumping to the right.

    Some actions are replaced by random ones, so that no two episodes are alike. An episode has `num_steps` at most.
    """
    connector = make_connector(game.connector_config)
    name = connector.select().games[0]
    env_dpath = dataset / environment_dname(connector, name, "test")
    dataset_info(connector, name, {"variant": "scripted"}).save(env_dpath)
    env = LevelEnv(connector, num_steps)
    for instance in range(num_levels):
        script = _script(connector, game.name, instance)
        policy = EpsilonPolicy(ScriptedPolicy(script, []), len(connector.action_names), SCRIPTED_GAMES[game.name])
        for session in range(-(-num_episodes // num_levels)):
            meta = EpisodeMeta(session, instance, session, "scripted", {"random": policy.gamma}, name)
            path = episode_path(env_dpath, instance, session)
            with EpisodeWriter(path, meta, connector.frame_shape) as writer:
                policy_seed, env_seed = np.random.SeedSequence([3000, instance, session]).spawn(2)
                first_word = int(env_seed.generate_state(1)[0])
                episode = ScheduledEpisode(Level(name, instance), session, session, first_word, policy_seed)
                play_episode(env, policy, writer, episode)
                writer.commit()
    env.close()


def _script(connector: Connector, game: str, instance: int) -> list[int]:
    if game == "cinderfoot":
        return [int(action) for action in json.loads(_SOLUTIONS.read_text(encoding="utf-8"))[str(instance)]]
    right, jump = (connector.action_names.index(name) for name in ("RIGHT", "RIGHT+ACTION_JUMP"))
    return [right] * 6 + [jump] * 8


if __name__ == "__main__":
    name, dataset, *numbers = sys.argv[1:]
    write_episodes(GAMES[name], Path(dataset), *map(int, numbers))
