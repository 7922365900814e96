"""Import of recordings that other programs made.

Datasets of the original GenieRedux, videos without actions, LeRobot and Minari datasets, HDF5, Parquet and ArrayRecord
files.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_generation.data.environment import check_hides_none, check_target
from data_generation.data.episode import EpisodeMeta, EpisodeReader, episode_path, is_whole
from data_generation.data.errors import FieldError, UserError
from data_generation.data.import_array_record import ARRAY_RECORD_SUFFIXES, array_record_dataset
from data_generation.data.import_arrays import ArrayDataset, ArraySession, ImportOptions, files_below
from data_generation.data.import_hdf5 import HDF5_SUFFIXES, hdf5_dataset
from data_generation.data.import_lerobot import is_lerobot, lerobot_dataset
from data_generation.data.import_original import OriginalSession, numbered, original_info, original_sessions
from data_generation.data.import_parquet import PARQUET_SUFFIXES, parquet_dataset
from data_generation.data.import_session import (
    RECORDING,
    SIZE,
    Fit,
    ImportedSession,
    first_frame,
    is_episode_of,
    keep_size,
    write_session,
)
from data_generation.data.index import scan
from data_generation.data.info import INFO_FNAME, DatasetInfo, MissingDatasetError, differences, disagreement
from data_generation.data.layout import BadEpisodeError
from data_generation.data.lock import locked
from data_generation.data.reading import shortened
from data_generation.data.recordings import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    frame_rate,
    images_in,
    natural_order,
    videos_in,
)

logger = logging.getLogger(__name__)

# Suffixes → reader, and which options it has.
_ARRAY_FORMATS = {
    HDF5_SUFFIXES: (hdf5_dataset, "frames_key"),
    PARQUET_SUFFIXES: (parquet_dataset, "frames_key"),
    ARRAY_RECORD_SUFFIXES: (array_record_dataset, "frame_size"),
}
# Rates of videos that differ by less are taken for the same.
_SAME_RATE = 1.05

# Sessions of a source and the numbers of their episodes.
_Numbered = list[tuple[ImportedSession, int]]


@dataclass
class Imported:
    """Counts of one import."""

    made: int = 0
    kept: int = 0
    bad: int = 0


@dataclass
class _DatasetSource:
    """An environment to import. `describe` gives its info, but for the shape of its frames, by its first session.

    `root`: the folder relative to which its recordings are named; None where the source itself numbers its episodes.
    `rate`: frames per second of a session, where each has a rate of its own, or none.
    """

    name: str
    sessions: Sequence[ImportedSession]
    describe: Callable[[Any], DatasetInfo]
    root: Path | None = None
    rate: Callable[[ImportedSession], float | None] | None = None

    def recording(self, session: ImportedSession) -> str:
        """The name of a session's recording, which stays when others join it; "" for one that the source numbers."""
        if self.root is None:
            return ""
        return f"{session.path.relative_to(self.root).as_posix()} {session.part}".rstrip()


def import_dataset(
    source_dpath: Path,
    target_dpath: Path,
    options: ImportOptions,
    on_bad_episode: str = "error",
    fit: Fit = keep_size,
) -> Imported:
    """Convert recordings into environments below `target_dpath`; sessions that are there already are kept.

    Recordings without numbers of their own are known by their names: those that are new get the next free numbers.
    An environment that is there keeps its info. `UserError` where it does not fit, or has an episode of the same number
    or name of another recording; nothing is changed then.

    `source_dpath`: an original dataset or environment, a video, a folder of videos or of folders of images, a folder of
    such folders, a LeRobot dataset, or files of arrays and folders with them. `options.action_names` overrides the
    names that the files give. `fit` brings frames to the size of the dataset. `UserError` names the bad file, unless
    `on_bad_episode` is "skip". FolderInUseError while another import writes to one of the environments.
    """
    check_target(target_dpath)
    result = Imported()
    for source in _sources(source_dpath, options):
        stated, env_dpath = _info(source, on_bad_episode, fit), target_dpath / source.name
        # From the look at what is there to the last episode: of two imports, both would give the same numbers.
        with locked(env_dpath, "wait for it, or stop it"):
            info = _info_of_target(env_dpath, stated, source)
            known, missing = _known_and_missing(source, env_dpath)
            if known:
                _compare(known, env_dpath, len(info.action_names), fit, on_bad_episode, result)
            _warn_of_rates(source, [session for session, _ in missing], info)
            with _saved(info, env_dpath):
                for session, number in tqdm(missing, f"import {source.name}", unit="episode"):
                    notes = {RECORDING: source.recording(session), SIZE: session.size()}
                    given = {name: value for name, value in notes.items() if value}
                    meta = EpisodeMeta(0, session.instance, number, "imported", given, info.game, stated.versions)
                    try:
                        write_session(session, env_dpath, meta, info, fit)
                        result.made += 1
                    except UserError as error:
                        _say_bad(error, on_bad_episode)
                        result.bad += 1
    return result


@contextmanager
def _saved(info: DatasetInfo, env_dpath: Path) -> Iterator[None]:
    """Write the info of an environment for a block that makes episodes; without any, what was new is removed again."""
    is_new = not (env_dpath / INFO_FNAME).is_file()
    if is_new:
        info.save(env_dpath)
    try:
        yield
    finally:
        # It would bind a corrected command to the settings of the one that failed.
        if is_new and not scan(env_dpath):
            (env_dpath / INFO_FNAME).unlink()
            for _, folder in numbered(env_dpath):
                with suppress(OSError):
                    folder.rmdir()


def _compare(
    known: _Numbered, env_dpath: Path, num_actions: int, fit: Fit, on_bad_episode: str, result: Imported
) -> None:
    """Count the episodes that are kept. `UserError` where one was made of another recording than its session."""
    for session, number in tqdm(known, f"compare {env_dpath.name}", unit="episode"):
        path = episode_path(env_dpath, session.instance, number)
        try:
            with EpisodeReader(path) as episode:
                is_same = is_episode_of(episode, session, num_actions, fit)
        except UserError as error:
            _say_bad(error, on_bad_episode)
            result.bad += 1
            continue
        if not is_same:
            remedy = "import into another folder, or remove it to import this one"
            recording = f"'{session.path}' {session.part}".rstrip()
            raise UserError(f"'{path}' was made of another recording than {recording}: {remedy}")
        result.kept += 1


def _known_and_missing(source: _DatasetSource, env_dpath: Path) -> tuple[_Numbered, _Numbered]:
    """The sessions of which the environment has an episode, and the others, with the numbers that they get."""
    if source.root is None:
        known: _Numbered = []
        missing: _Numbered = []
        for session in source.sessions:
            is_known = is_whole(episode_path(env_dpath, session.instance, session.session))
            (known if is_known else missing).append((session, session.session))
        return known, missing
    there = _recordings(env_dpath)
    if "" in there.values():
        raise UserError(f"'{env_dpath}' has episodes that are of no recordings: import into another folder")
    numbers = {recording: number for number, recording in there.items()}
    names = [(session, source.recording(session)) for session in source.sessions]
    new = [session for session, name in names if name not in numbers]
    return (
        [(session, numbers[name]) for session, name in names if name in numbers],
        list(zip(new, (number for number in count() if number not in there), strict=False)),
    )


def _recordings(env_dpath: Path) -> dict[int, str]:
    """Number of each whole episode of the first instance → the name of its recording, "" where it has none."""
    found = {}
    entries = scan(env_dpath) if env_dpath.is_dir() else ()
    for number in [number for instance, number, *_ in entries if instance == 0]:
        with suppress(OSError, UserError), EpisodeReader(episode_path(env_dpath, 0, number)) as episode:
            found[number] = str(episode.meta.policy_parameters.get(RECORDING, ""))
    return found


def _say_bad(error: UserError, on_bad_episode: str) -> None:
    if on_bad_episode == "error":
        raise BadEpisodeError.of(error) from None
    logger.warning("skipped: %s", error)


def _info(source: _DatasetSource, on_bad_episode: str, fit: Fit) -> DatasetInfo:
    """The environment's info, by its first good session."""
    if not source.sessions:
        raise UserError(f"'{source.name}' holds no episodes: name another folder")
    for session in source.sessions:
        try:
            shape = first_frame(session, fit).shape
            info = replace(source.describe(session), frame_shape=(shape[0], shape[1], shape[2]))
            # Before a file is written: what is wrong with an option is wrong with the first session already.
            for _ in session.steps(len(info.action_names)) or ():
                pass
        except FieldError:
            # An option, and no session.
            raise
        except UserError as error:
            if on_bad_episode == "error":
                raise BadEpisodeError.of(error) from None
        else:
            if shape[1] != shape[2]:
                problem = f"'{source.name}' has frames of {shape[2]}x{shape[1]}, and models take square ones"
                logger.warning("%s: resize with --image-size 64, which shows all of them, between black bars", problem)
            return info
    raise UserError(
        f"no session of '{source.name}' can be read: see 'python run.py data import --on-bad-episode error'"
    )


def _info_of_target(env_dpath: Path, info: DatasetInfo, source: _DatasetSource) -> DatasetInfo:
    """The info of the folder that gets the episodes, which one that has some keeps. `UserError` if they do not fit."""
    check_hides_none(env_dpath)
    if not (env_dpath / INFO_FNAME).is_file():
        if len(set(info.action_names)) < len(info.action_names):
            raise UserError(
                f"actions of '{env_dpath.name}' share a name: give each one of its own, --action-names A,B,…"
            )
        return info
    found = DatasetInfo.load(env_dpath)
    if problem := disagreement(found, info) or _difference(found, info, source):
        raise UserError(f"'{env_dpath}' exists and {problem} as these recordings: import into another folder")
    return found


def _difference(found: DatasetInfo, info: DatasetInfo, source: _DatasetSource) -> str:
    """What else an environment's recordings have in common, as `disagreement` says it."""
    pairs = {f"connector.{name}": pair for name, pair in differences(found.connector, info.connector).items()}
    pairs["game"] = found.game, info.game
    # Datasets of earlier versions may have no rate; videos are compared one by one.
    if source.rate is None and found.fps and info.fps:
        pairs["fps"] = found.fps, info.fps
    for name, (one, other) in pairs.items():
        if one != other:
            return f"has {name} {shortened(one)}, not {shortened(other)}"
    return ""


def _warn_of_rates(source: _DatasetSource, sessions: Sequence[ImportedSession], info: DatasetInfo) -> None:
    """Say it where videos, to join those of the environment, have different rates."""
    rates = [info.fps]
    for session in sessions if source.rate else ():
        # An unreadable one is told when it is imported.
        with suppress(UserError):
            rates.append(source.rate(session) if source.rate else None)
    known = [rate for rate in rates if rate]
    if known and max(known) > _SAME_RATE * min(known):
        problem = f"videos of {min(known):.4g} to {max(known):.4g} frames per second in one environment"
        logger.warning("%s: %s: convert them to one rate, or keep them apart", source.name, problem)


def _sources(source_dpath: Path, options: ImportOptions) -> list[_DatasetSource]:
    """The environments at a path. `UserError` where there are none."""
    if is_lerobot(source_dpath):
        options.check_used(source_dpath, "a LeRobot dataset", "action_names", "actions_key", "frames_key")
        return [_of_arrays(lerobot_dataset(source_dpath, options), options, None)]
    if source_dpath.is_file() and (arrays := _arrays(source_dpath, options)):
        return [arrays]
    if source_dpath.is_file() and source_dpath.suffix.lower() in VIDEO_SUFFIXES:
        return [_without_actions(source_dpath, [ImportedSession(source_dpath, 0, 0)], source_dpath.parent, options)]
    if not source_dpath.is_dir():
        raise MissingDatasetError(f"'{source_dpath}' is not a folder: give an original dataset, or a folder of videos")
    try:
        if source := _environment(source_dpath, options):
            return [source]
        folders = [path for path in source_dpath.iterdir() if path.is_dir() and not path.name.startswith(".")]
        found = [_environment(path, options) for path in sorted(folders, key=natural_order)]
    except OSError as error:
        raise UserError(f"'{error.filename}' cannot be read ({error.strerror}): check its permissions") from None
    if not any(found) and (arrays := _arrays(source_dpath, options)):
        return [arrays]
    if not any(found):
        problem = (
            "is not an original dataset (<instance>/<session>/actions.json), and holds no videos, no images and no "
            "arrays in HDF5, Parquet or ArrayRecord files"
        )
        raise UserError(f"'{source_dpath}' {problem}: name another folder")
    return [source for source in found if source is not None]


def _arrays(path: Path, options: ImportOptions) -> _DatasetSource | None:
    """The files of arrays at a path, as one environment."""
    name = path.resolve().stem if path.is_file() else path.resolve().name
    for suffixes, (read, option) in _ARRAY_FORMATS.items():
        if files := files_below(path, suffixes, natural_order):
            options.check_used(path, f"{files[0].suffix} files", "action_names", "actions_key", option)
            return _of_arrays(read(name, files, options), options, path if path.is_dir() else path.parent)
    return None


def _of_arrays(dataset: ArrayDataset, options: ImportOptions, root: Path | None) -> _DatasetSource:
    @cache
    def names() -> list[str]:
        return dataset.names(options)

    def describe(_session: ArraySession) -> DatasetInfo:
        game = dataset.game if dataset.game.isprintable() else ""
        generator = {"imported": True}
        return DatasetInfo(dataset.name, game or dataset.name, names(), (3, 1, 1), generator=generator, fps=dataset.fps)

    return _DatasetSource(dataset.name, dataset.sessions, describe, root)


def _environment(dpath: Path, options: ImportOptions) -> _DatasetSource | None:
    """What a folder holds if it is one environment. `UserError` where that leaves out recordings in it."""
    sessions, without = original_sessions(dpath)
    if sessions:
        options.check_used(dpath, "an original dataset", "action_names")
        _check_takes_all(dpath, [path for _, path in numbered(dpath)])
        for path in without:
            logger.warning("'%s' has no actions.json (an unfinished session): not imported", path)
        name = dpath.resolve().name

        def describe(session: OriginalSession) -> DatasetInfo:
            return original_info(dpath, session, options)

        return _DatasetSource(name, sessions, describe)
    recorded = videos_in(dpath) or [path for path in _folders(dpath) if images_in(path)]
    if taken := recorded or images_in(dpath):
        _check_takes_all(dpath, taken)
        found = [ImportedSession(path, 0, number) for number, path in enumerate(recorded or [dpath])]
        return _without_actions(dpath, found, dpath, options)
    if without:
        _check_takes_all(dpath, [path for _, path in numbered(dpath)])
        return _without_actions(dpath, _original_frames(dpath), None, options)
    return None


def _check_takes_all(dpath: Path, taken: list[Path]) -> None:
    """UserError where a folder that is one environment, because of what is `taken`, has recordings in others, too."""
    others = (path for path in _folders(dpath) if path not in taken and not path.name.startswith("."))
    suffixes = VIDEO_SUFFIXES + IMAGE_SUFFIXES
    for folder in others:
        if any(path.suffix.lower() in suffixes for path in folder.rglob("[!.]*")):
            problem = f"'{taken[0]}' makes '{dpath}' one environment, without the recordings in '{folder}'"
            raise UserError(f"{problem}: move one of the two elsewhere, or import the folders one by one")


def _folders(dpath: Path) -> list[Path]:
    return sorted((path for path in dpath.iterdir() if path.is_dir()), key=natural_order)


def _original_frames(env_dpath: Path) -> list[ImportedSession]:
    """The sessions of an original environment, none of which has actions."""
    found = []
    for instance, instance_dpath in numbered(env_dpath):
        for session, dpath in numbered(instance_dpath):
            video = dpath / "frames.mp4"
            found.append(ImportedSession(video if video.exists() else dpath / "frames", instance, session))
    return found


def _without_actions(
    path: Path, sessions: list[ImportedSession], root: Path | None, options: ImportOptions
) -> _DatasetSource:
    """Videos, or folders of images, that tokenizer, LAM and GenieRedux can learn from. `root` as of the source."""
    options.check_used(path, "recordings without actions")
    name = path.resolve().stem if path.is_file() else path.resolve().name

    def rate(session: ImportedSession) -> float | None:
        return None if session.path.is_dir() else frame_rate(session.path)

    def describe(session: ImportedSession) -> DatasetInfo:
        return DatasetInfo(name, name, [], (3, 1, 1), generator={"imported": True}, fps=rate(session))

    return _DatasetSource(name, sessions, describe, root, rate)
