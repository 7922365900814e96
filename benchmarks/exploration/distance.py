"""How much more an agent's data are worth, by how far the test play is from random play.

The loop's fine-tuned world models predict clips of the third policy's play; clips are grouped by the distance of the
character from the nearest place that the random data have on that level.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.report import MEASURES, ROWS
from benchmarks.exploration.settings import EXPLORED
from benchmarks.exploration.statistics import interval_over_seeds
from benchmarks.intervals import mean_and_interval
from data.data import ClipDataset
from data_generation.data.data import Environment, list_environments
from data_generation.data.files import write_atomically
from data_generation.data.markdown import markdown_table
from models.base import Rollout
from models.checkpoint import load_world_model
from models.config import SampleSettings
from training.clips import frames_to_float
from training.images import save_figure
from training.measures.position import read_frames_and_positions
from training.metrics import psnr_per_frame
from training.rollout import clip_generators, random_actions

# Upper ends of the groups, in pixels of the game's screen, 256 of which are its width.
EDGES = (4, 64, 256, np.inf)
NUM_CLIPS, BATCH_CLIPS = 480, 16
NUM_FRAMES, HORIZON = 8, 4
ROLLOUT = Rollout(2, NUM_FRAMES - 2, SampleSettings(method="autoregressive", dream_length=1))
_PLACE = ("x", "y")
_MEASURES = ("psnr", "delta_psnr")


@dataclass
class ClipsByDistance:
    """The test clips: frames (N, T, C, H, W) in [0, 1], actions (N, T-1), distances (N,) in pixels.

    `indices` (N): which of the dataset's clips they are.
    """

    indices: list[int]
    frames: Tensor
    actions: Tensor
    distances: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        """The group (N,) of each."""
        return np.digitize(self.distances, EDGES[:-1])


def clips_by_distance(experiment: Experiment) -> ClipsByDistance:
    """Clips of the third policy's play, evenly spread, and how far each is from the random data of all seeds."""
    dataset = ClipDataset(experiment.test_dataset(EXPLORED), "all", NUM_FRAMES)
    indices = np.unique(np.linspace(0, len(dataset) - 1, NUM_CLIPS).astype(int)).tolist()
    batch = dataset.read(indices)
    places = read_frames_and_positions(dataset, indices, _PLACE)[1][:, ROLLOUT.num_prime - 1 :]
    known = _places([experiment.dataset(f"random_seed{seed}") for seed in experiment.data_seeds])
    episodes = map(dataset.episode_of, dataset.locate(indices)[0])
    levels = [int(environment.instances[episode]) for environment, episode in episodes]
    distances = [
        torch.cdist(own, known[level]).min(dim=1).values.mean().item()
        for own, level in zip(places, levels, strict=True)
    ]
    return ClipsByDistance(indices, frames_to_float(batch.frames), batch.actions, np.array(distances))


def _places(datasets: list[Path]) -> dict[int, Tensor]:
    """Level → the character's places (M, 2) in all frames of these datasets."""
    found: dict[int, list[np.ndarray]] = {}
    for path in (path for dataset in datasets for path in list_environments(dataset)):
        environment = Environment(path)
        for episode, level in enumerate(environment.instances.tolist()):
            with environment.open(episode) as reader:
                places = np.stack([reader.infos[name] for name in _PLACE], axis=1)
            found.setdefault(level, []).append(places)
    return {level: torch.from_numpy(np.unique(np.concatenate(all_), axis=0)).float() for level, all_ in found.items()}


@torch.no_grad()
def measure(model_fpath: Path, clips: ClipsByDistance) -> dict[str, np.ndarray]:
    """PSNR of each clip's predicted frames, and its ΔPSNR, as evaluation has them: (N,) each, in dB."""
    model = load_world_model(model_fpath).model
    found: dict[str, list[Tensor]] = {"psnr": [], "delta_psnr": []}
    for start in range(0, len(clips.frames), BATCH_CLIPS):
        part = slice(start, start + BATCH_CLIPS)
        indices, video, actions = clips.indices[part], clips.frames[part], clips.actions[part]
        generators = clip_generators(0, indices, video.device)
        drawn = random_actions(actions, model.num_actions, ROLLOUT, 0, indices)
        own, other = (
            psnr_per_frame(prediction.frames, prediction.target)
            for prediction in (model.continue_clips(video, chosen, ROLLOUT, generators) for chosen in (actions, drawn))
        )
        found["psnr"].append(own.mean(dim=1))
        found["delta_psnr"].append((own - other)[:, HORIZON - 1])
    return {name: torch.cat(values).numpy() for name, values in found.items()}


def report_distance(experiment: Experiment) -> str:
    """Write distance_<test policy>.json, .png and .md; returns the table."""
    clips, seeds = clips_by_distance(experiment), experiment.data_seeds
    models = {
        row: [experiment.fine_tuned(f"{row}_seed{seed}")[1] for seed in seeds] for row in experiment.fine_tuned_on
    }
    models = {"before": [experiment.tested[1]], **models}
    groups = [clips.groups == group for group in np.unique(clips.groups)]
    content: dict[str, Any] = {
        "pixels": [float(clips.distances[chosen].mean()) for chosen in groups],
        "clips": [int(chosen.sum()) for chosen in groups],
    }
    for row, paths in models.items():
        runs = [measure(path, clips) for path in tqdm(paths, f"distance, {ROWS[row]}", unit="model")]
        content[row] = {
            name: [[float(run[name][chosen].mean()) for chosen in groups] for run in runs] for name in _MEASURES
        }
    target = distance_report(experiment)
    write_atomically(target.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
    save_figure(distance_figure(content, experiment), target.with_suffix(".png"))
    table = "\n\n".join(distance_table(content, name) for name in _MEASURES)
    write_atomically(target.with_suffix(".md"), table + "\n")
    return table


def distance_report(experiment: Experiment) -> Path:
    """Where it is written, without the files' endings."""
    return experiment.root / f"distance_{experiment.test_policy}"


def distance_table(content: dict[str, Any], name: str) -> str:
    """A row for each group of clips: the measure of all models, and each one's lead over random data.

    Models: interquartile means over the seeds; leads: means with 95 % t intervals of the seeds' differences.
    """
    rows = [row for row in ROWS if row in content]
    led = [row for row in rows if row not in ("before", "random")]
    head = ["pixels from the random data", "clips", *(f"{ROWS[row]}: {MEASURES[name]}" for row in rows)]
    head += [f"{ROWS[row]} − {ROWS['random']}" for row in led]
    body = []
    for group, (pixels, count) in enumerate(zip(content["pixels"], content["clips"], strict=True)):
        values = {row: np.array(content[row][name])[:, group] for row in rows}
        cells = [f"{values[row][0]:.2f}" if row == "before" else str(interval_over_seeds(values[row])) for row in rows]
        # Of the same seed.
        leads = [mean_and_interval(list(values[row] - values["random"])) for row in led]
        body.append([f"{pixels:.0f}", str(count), *cells, *leads])
    return markdown_table(head, body)


def distance_figure(content: dict[str, Any], experiment: Experiment) -> Figure:
    """A panel for each measure: the lead over random data at each distance, a thin line for each seed."""
    figure = Figure(figsize=(5 * len(_MEASURES), 4), layout="constrained")
    figure.suptitle(
        f"{experiment.game.name}: lead over a model fine-tuned on random data; {experiment.test_policy}'s play"
    )
    places = range(len(content["pixels"]))
    for name, axes in zip(_MEASURES, figure.subplots(1, len(_MEASURES), squeeze=False)[0], strict=True):
        for row in (row for row in ROWS if row in content and row not in ("before", "random")):
            leads = np.array(content[row][name]) - np.array(content["random"][name])
            (line,) = axes.plot(places, leads.mean(axis=0), marker="o", label=ROWS[row])
            axes.plot(places, leads.T, color=line.get_color(), alpha=0.3, linewidth=0.8)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(places, [f"{pixels:.0f}" for pixels in content["pixels"]])
        axes.set(xlabel="mean distance from the random data [pixels]", ylabel=f"{MEASURES[name]} [dB]")
        axes.grid(alpha=0.3)
    axes.legend()
    return figure
