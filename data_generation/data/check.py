"""Full verification of environment folders."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from data_generation.data.episode import EpisodeReader, episode_path
from data_generation.data.errors import UserError
from data_generation.data.files import is_temporary
from data_generation.data.index import misfit, scan
from data_generation.data.info import DatasetInfo, disagreement


@dataclass
class Checked:
    """One line per problem, and counts. `num_leftovers`: temporary files of running or killed writers."""

    problems: list[str] = field(default_factory=list)
    num_episodes: int = 0
    num_leftovers: int = 0


def check_environments(env_dpaths: list[Path]) -> Checked:
    """Verify info.json and every byte of every episode, and that they fit together. Reads files, not the index."""
    result = Checked()
    infos: list[DatasetInfo] = []
    jobs: list[tuple[Path, int, int, DatasetInfo]] = []
    for env_dpath in env_dpaths:
        try:
            info = DatasetInfo.load(env_dpath)
            jobs += [(env_dpath, instance, session, info) for instance, session, *_ in scan(env_dpath)]
        except UserError as error:
            result.problems.append(str(error))
            continue
        infos.append(info)
        if problem := disagreement(info, infos[0]):
            result.problems.append(f"'{env_dpath}' {problem} as '{infos[0].name}': keep them apart")
        for _, _, names in os.walk(env_dpath):
            result.num_leftovers += sum(map(is_temporary, names))
    for job in tqdm(jobs, "check", unit="episode"):
        result.num_episodes += 1
        try:
            _check_episode(*job)
        except (UserError, OSError) as error:
            result.problems.append(str(error))
    return result


def _check_episode(env_dpath: Path, instance: int, session: int, info: DatasetInfo) -> None:
    path = episode_path(env_dpath, instance, session)
    with EpisodeReader(path) as episode:
        episode.verify()
        if problem := misfit(episode, info):
            raise UserError(f"episode '{path}' {problem} by info.json")
        if (episode.meta.instance, episode.meta.session) != (instance, session):
            found = f"{episode.meta.instance}/{episode.meta.session}"
            raise UserError(f"episode '{path}' is instance/session {found} by its content: it was renamed or copied")
