"""`python run.py data …`: inspect, check, convert, share, merge and cut datasets."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_generation.arguments import OneLineParser, path_or_place, read_path, whole_number
from data_generation.cli_subsets import add_subset_commands
from data_generation.data.check import check_environments
from data_generation.data.data import SPLITS, Environment, EpisodeReader, list_environments, split_episodes
from data_generation.data.dataset_card import dataset_card
from data_generation.data.environment import dataset_dname
from data_generation.data.errors import FieldError, under
from data_generation.data.export_lerobot import ExportedPart, export_lerobot
from data_generation.data.hub import HubPlace, fetch, local_path, send
from data_generation.data.import_arrays import ImportOptions
from data_generation.data.import_dataset import import_dataset
from data_generation.data.import_session import keep_size
from data_generation.data.info import DatasetInfo, MissingDatasetError
from data_generation.data.layout import EPISODE_SUFFIX, MAX_SIDE
from data_generation.data.media import contact_sheet, episode_images, episode_row, write_gif, write_mp4, write_png
from data_generation.generator.frames import FrameFitter

_MAX_IMAGE_BYTES = 1 << 29
_PATH_HELP = "a dataset folder, one environment folder in it, or a dataset on the hub (hf://<owner>/<name>)"


def main(argv: Sequence[str]) -> int:
    """Run one `data` command. Returns the exit code: 0, or 1 if `check` found something bad.

    UserError for wrong arguments, and for paths and files that are not as they should be.
    """
    arguments = _parser().parse_args(list(argv))
    for name, given in vars(arguments).items():
        if name in ("path", "paths"):
            setattr(arguments, name, _local(given))
    result: int = arguments.run(arguments)
    return result


def _local(given: Any) -> Any:
    """Paths, in place of places on the hub."""
    if isinstance(given, list):
        return [_local(one) for one in given]
    return local_path("path", given, "dataset") if isinstance(given, str) else given


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python run.py data",
        description="Inspect, check, convert, share, merge and cut episode datasets.",
        epilog="example: python run.py data info data_generation/datasets/retro_act_v0.0.0_g50",
    )
    names = "info|stats|check|view|import|export|merge|split|sample|push|pull"
    commands = parser.add_subparsers(title="commands", required=True, metavar=names)
    _add_info(commands)
    _add_check(commands)
    _add_import(commands)
    _add_export(commands)
    _add_view(commands)
    _add_push(commands)
    _add_pull(commands)
    add_subset_commands(commands)
    return parser


def _add(commands: Any, name: str, run: Any, summary: str, description: str, path_help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=f"{summary}. {description}")
    parser.add_argument("path", type=path_or_place, help=path_help)
    parser.set_defaults(run=run)
    return parser


def _height_and_width(text: str) -> tuple[int, int]:
    """`90x160` as height and width."""
    try:
        height, width = map(whole_number(MAX_SIDE), text.split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not <height>x<width>") from error
    return height, width


def _add_info(commands: Any) -> None:
    description = "Opens no episode: what it says comes from the folders' indexes."
    parser = _add(commands, "info", _info, "summary and statistics", description, _PATH_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _add_check(commands: Any) -> None:
    description = "Names every bad file and exits with 1 if there is one."
    _add(commands, "check", _check, "verify every byte of every episode", description, _PATH_HELP)


def _add_import(commands: Any) -> None:
    description = "Sessions that the target has already are kept, so an interrupted import can be resumed."
    path_help = (
        "an original dataset or environment: <instance>/<session>/{frames/000123.jpg | frames.mp4, actions.json}; "
        "without actions: a video, a folder of videos or of folders of images; a LeRobot (v3.0) or Minari dataset; "
        "HDF5, Parquet or ArrayRecord files, or a folder with them"
    )
    parser = _add(commands, "import", _import, "convert datasets of other programs, or videos", description, path_help)
    parser.add_argument("--to", type=read_path, required=True, help="dataset folder that gets the environments")
    parser.add_argument("--action-names", help="names in index order, e.g. RIGHT,LEFT,UP,DOWN,ACTION_JUMP")
    parser.add_argument(
        "--without-actions", action="store_true", help="leave out the actions, which may then be continuous"
    )
    parser.add_argument("--frames-key", help="name of the frames in HDF5, Parquet, LeRobot files, if not a usual one")
    parser.add_argument("--actions-key", help="name of the actions in these files, if not a usual one")
    parser.add_argument(
        "--frame-size", type=_height_and_width, help="of ArrayRecord files, e.g. 90x160 (default: square)"
    )
    parser.add_argument(
        "--image-size", type=whole_number(MAX_SIDE), help="resize to N x N, with black bars (default: keep)"
    )
    parser.add_argument("--on-bad-episode", choices=("error", "skip"), default="error", help="default: error")


def _add_export(commands: Any) -> None:
    description = "mp4 and gif: one video per episode. lerobot: one dataset in LeRobot's layout v3.0 (needs pyarrow)."
    path_help = f"{_PATH_HELP}, or one {EPISODE_SUFFIX} file"
    parser = _add(commands, "export", _export, "write videos or a LeRobot dataset", description, path_help)
    parser.add_argument("--to", type=read_path, required=True, help="folder to write; for lerobot it must not exist")
    parser.add_argument("--format", choices=("mp4", "gif", "lerobot"), default="mp4", help="default: mp4")
    parser.add_argument("--max-episodes", type=whole_number(10**9), help="of each environment (default: all)")
    parser.add_argument("--scale", type=whole_number(64), default=4, help="videos: enlargement (default: 4)")
    parser.add_argument(
        "--fps",
        type=whole_number(1000),
        help="default: the speed at which people play, by info.json, or 15; at most 50 in a gif",
    )


def _add_view(commands: Any) -> None:
    description = "One row per episode, evenly spaced frames. Prints the path of the image."
    parser = _add(commands, "view", _view, "a contact sheet (PNG)", description, f"{_PATH_HELP}, or an episode file")
    parser.add_argument("--to", type=read_path, help="PNG to write (default: outputs/data/<name>.png)")
    parser.add_argument("--rows", type=whole_number(1000), default=12, help="episodes to show (default: 12)")
    parser.add_argument("--columns", type=whole_number(1000), default=10, help="frames per episode (default: 10)")
    parser.add_argument("--scale", type=whole_number(64), default=2, help="enlargement (default: 2)")


def _add_push(commands: Any) -> None:
    description = "With a card (README.md) where there is none. A second push continues an interrupted one."
    parser = _add(commands, "push", _push, "upload a dataset to the Hugging Face hub", description, _PATH_HELP)
    parser.add_argument("--to", required=True, help="hf://<owner>/<name>, made if need be")
    parser.add_argument("--private", action="store_true", help="only for your own eyes, where it is made")


def _add_pull(commands: Any) -> None:
    summary = "download a dataset from the Hugging Face hub"
    description = "Whatever its format is; a second pull continues an interrupted one."
    parser = commands.add_parser("pull", help=summary, description=f"{summary}. {description}")
    parser.add_argument("place", help="hf://<owner>/<name>[@<revision>]")
    parser.add_argument("--to", type=read_path, required=True, help="new folder, or an earlier copy")
    parser.set_defaults(run=_pull)


def _check_pixels(shape: tuple[int, int, int], scale: int, count: int = 1) -> None:
    """FieldError where `count` enlarged frames take more memory than anybody has for an image."""
    _, height, width = shape
    if (size := count * 3 * height * width * scale**2) > _MAX_IMAGE_BYTES:
        problem = f"{count} frames of {width * scale}x{height * scale} pixels take {size / 1e9:.1f} GB"
        raise FieldError("--scale", scale, problem, "lower it, or show fewer frames" if count > 1 else "lower it")


def _open(path: Path) -> list[Environment]:
    return [Environment(env_dpath, on_bad_episode="skip") for env_dpath in list_environments(path)]


def _splits(environment: Environment) -> dict[str, int]:
    return {split: len(split_episodes(environment, split)) for split in SPLITS if split != "all"}


def _info(arguments: argparse.Namespace) -> int:
    environments = _open(arguments.path)
    statistics = {environment.name: environment.statistics() for environment in environments}
    if arguments.json:
        print(json.dumps(statistics, indent=2))
        return 0
    columns = f"{'episodes':>8} {'frames':>10} {'length':>7} {'reward':>9} {'MB':>8} {'B/frame':>7}"
    print(f"{'environment':50} {columns}  splits")
    for environment in environments:
        row = statistics[environment.name]
        splits = "/".join(str(count) for count in _splits(environment).values())
        per_frame = row["bytes"] / max(1, row["frames"])
        bad = f"  ({row['bad_episodes']} bad: run check)" if row["bad_episodes"] else ""
        print(
            f"{environment.name:50} {row['episodes']:8} {row['frames']:10} {row['mean_length']:7.1f} "
            f"{row['mean_reward']:9.2f} {row['bytes'] / 1e6:8.1f} {per_frame:7.0f}  {splits}{bad}"
        )
    if len(environments) > 1:
        totals = [sum(row[key] for row in statistics.values()) for key in ("episodes", "frames", "bytes")]
        print(f"{f'{len(environments)} environments':50} {totals[0]:8} {totals[1]:10} {'':17} {totals[2] / 1e6:8.1f}")
    else:
        _print_details(environments[0], statistics[environments[0].name])
    print("length: mean frames per episode · reward: mean sum per episode · splits: train/validation/test episodes")
    return 0


def _print_details(environment: Environment, statistics: dict[str, Any]) -> None:
    info = environment.info
    print(f"\ngame {info.game} · frames {info.frame_shape} (C, H, W) · format version {info.format_version}")
    print(f"connector {json.dumps(info.connector)}")
    print(f"generator {json.dumps(info.generator)}")
    print(f"versions {json.dumps(info.versions)}")
    print(f"lengths {statistics['min_length']} to {statistics['max_length']} frames")
    total = max(1, sum(statistics["actions"].values()))
    for name, count in statistics["actions"].items():
        print(f"  {name:24} {count:10} {count / total:6.1%} {'#' * round(40 * count / total)}")
    print()


def _check(arguments: argparse.Namespace) -> int:
    paths = list_environments(arguments.path)
    result = check_environments(paths)
    for problem in result.problems:
        print(f"bad: {problem}")
    if result.num_leftovers:
        print(f"{result.num_leftovers} temporary files of running or stopped writers: readers ignore them")
    if not result.num_episodes and not result.problems:
        raise FieldError("path", arguments.path, "holds no episodes", "generate some")
    verdict = f"{len(result.problems)} bad" if result.problems else "all good"
    print(f"checked {result.num_episodes} episodes in {len(paths)} environments: {verdict}")
    return 1 if result.problems else 0


def _action_names(text: str | None) -> list[str] | None:
    """Names between commas. FieldError where one is empty, unprintable, or there twice."""
    if text is None:
        return None
    names = text.split(",")
    if not text.isprintable() or "" in names or len(set(names)) < len(names):
        raise FieldError("--action-names", text, "is not a name for each action", "give each one of its own, A,B,…")
    return names


def _import(arguments: argparse.Namespace) -> int:
    names = _action_names(arguments.action_names)
    keys = (arguments.frames_key, arguments.actions_key, arguments.frame_size)
    options = ImportOptions(names, arguments.without_actions, *keys)
    fit = FrameFitter(arguments.image_size, arguments.image_size) if arguments.image_size else keep_size
    with under("", on_bad_episode="--on-bad-episode"):
        result = import_dataset(arguments.path, arguments.to, options, arguments.on_bad_episode, fit)
    skipped = f", {result.bad} bad ones skipped" if result.bad else ""
    print(f"imported {result.made} episodes into '{arguments.to}' ({result.kept} existed already{skipped})")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    place = HubPlace.parse("--to", arguments.to, "dataset")
    address = send(place, arguments.path, dataset_card(_open(arguments.path)), arguments.private)
    print(f"pushed to {address}: use it as {arguments.to}")
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    folder = fetch(HubPlace.parse("place", arguments.place, "dataset"), arguments.to)
    try:
        environments = list_environments(folder)
    except MissingDatasetError:
        print(f"pulled into '{arguments.to}', which has another format: see 'python run.py data import --help'")
    else:
        print(f"pulled {len(environments)} environments into '{arguments.to}'")
    return 0


def _spread(count: int, wanted: int | None) -> list[int]:
    """Up to `wanted` of range(count), evenly spaced."""
    wanted = count if wanted is None else min(wanted, count)
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(int)).tolist() if count else []


def _export(arguments: argparse.Namespace) -> int:
    if arguments.path.suffix == EPISODE_SUFFIX and arguments.format != "lerobot":
        with EpisodeReader(arguments.path) as episode:
            instance, session = episode.meta.instance, episode.meta.session
            path = arguments.to / f"{instance:06d}_{session:06d}.{arguments.format}"
            _write_video(path, episode, _rate(arguments), arguments)
        print(f"wrote '{path}'")
        return 0
    if arguments.format == "lerobot":
        count = export_lerobot(_lerobot_parts(arguments), arguments.to, arguments.fps)
        print(f"wrote {count} episodes to '{arguments.to}'")
        return 0
    jobs = [
        (environment, i)
        for environment in _open(arguments.path)
        for i in _spread(environment.num_episodes, arguments.max_episodes)
    ]
    for environment, i in tqdm(jobs, "export", unit="episode"):
        with environment.open(i) as episode:
            name = f"{environment.instances[i]:06d}_{environment.sessions[i]:06d}.{arguments.format}"
            fps = arguments.fps or environment.info.frame_rate
            _write_video(arguments.to / environment.name / name, episode, fps, arguments)
    print(f"wrote {len(jobs)} videos to '{arguments.to}'")
    return 0


def _lerobot_parts(arguments: argparse.Namespace) -> list[ExportedPart]:
    path: Path = arguments.path.resolve()
    if path.suffix == EPISODE_SUFFIX:
        # Says what is wrong with the file before its folder is looked at.
        EpisodeReader(arguments.path).close()
        environment = Environment(path.parent.parent, on_bad_episode="skip")
        numbers = [i for i in range(environment.num_episodes) if environment.episode_path(i) == path]
        if not numbers:
            remedy = "give the file where it was made, or export it as mp4"
            raise FieldError("path", arguments.path, "is not in an environment folder", remedy)
        return [ExportedPart(environment, numbers)]
    environments = [Environment(env_dpath) for env_dpath in list_environments(arguments.path)]
    return [ExportedPart(one, _spread(one.num_episodes, arguments.max_episodes)) for one in environments]


def _rate(arguments: argparse.Namespace) -> float:
    """Frames per second of one episode file: as its environment's folder says, or 15."""
    if arguments.fps:
        return float(arguments.fps)
    try:
        return DatasetInfo.load(arguments.path.resolve().parent.parent).frame_rate
    except MissingDatasetError:
        return 15.0


def _write_video(path: Path, episode: EpisodeReader, fps: float, arguments: argparse.Namespace) -> None:
    _check_pixels(episode.frame_shape, arguments.scale)
    write = write_mp4 if arguments.format == "mp4" else write_gif
    write(path, episode_images(episode, arguments.scale), fps)


def _view(arguments: argparse.Namespace) -> int:
    target = arguments.to or Path("outputs/data") / f"{dataset_dname(arguments.path).removesuffix(EPISODE_SUFFIX)}.png"
    if arguments.path.suffix == EPISODE_SUFFIX:
        chosen = [(str(arguments.path), arguments.path)]
    else:
        episodes = [(environment, i) for environment in _open(arguments.path) for i in range(environment.num_episodes)]
        shown = [episodes[k] for k in _spread(len(episodes), arguments.rows)]
        chosen = [(_label(environment, i), environment.episode_path(i)) for environment, i in shown]
    if not chosen:
        raise FieldError("path", arguments.path, "has no episodes", "run 'python run.py generate config=…'")
    rows = []
    for label, path in chosen:
        with EpisodeReader(path) as episode:
            _check_pixels(episode.frame_shape, arguments.scale, len(chosen) * arguments.columns)
            rows.append(episode_row(label, episode, arguments.columns, arguments.scale))
    write_png(target, contact_sheet(rows))
    print(f"{len(rows)} episodes: '{target}'")
    return 0


def _label(environment: Environment, i: int) -> str:
    episode = f"{environment.instances[i]:06d}/{environment.sessions[i]:06d}"
    return f"{environment.name} {episode}: {environment.num_frames[i]} frames, reward {environment.reward_sums[i]:g}"
