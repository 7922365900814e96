"""Tables and plot of the experiment: means over seeds with 95 % intervals."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.intervals import mean_and_interval
from benchmarks.many_games.models import ALONE, ALONE_FULL, FINE_TUNINGS, NOTHING, TOGETHER, Result
from data_generation.data.markdown import markdown_table
from training.images import save_figure

COLUMNS = {
    "pooled_psnr": "pooled PSNR",
    "changed_pooled_psnr": "of changed pixels",
    "delta_psnr": "ΔPSNR",
    "action_following": "following",
    "action_following_ceiling": "(ceiling)",
    "tokenizer_pooled_psnr": "tokenizer",
    "copy_last_pooled_psnr": "copy-last",
}
# By which amounts of data are compared.
COMPARED = ("pooled_psnr", "delta_psnr")
ARMS = (NOTHING, *FINE_TUNINGS)
# (frames, value) of a model, in ascending order of frames.
Curve = list[tuple[float, float]]


def games_table(results: list[Result]) -> str:
    """Markdown: a row per trained game and model, then the means over the games, and their differences."""
    models = [model for model in (TOGETHER, ALONE, ALONE_FULL) if any(result.model == model for result in results)]
    trained = [result for result in results if result.model in models and result.amount]
    body = []
    for game in _distinct(result.game for result in trained):
        for model in models:
            body += _row([r for r in trained if (r.game, r.model) == (game, model)], game, model)
    body += [_mean_row(trained, model, {model: 1}) for model in models]
    for model in models[1:]:
        body.append(_mean_row(trained, f"{models[0]} − {model}", {models[0]: 1, model: -1}))
    return markdown_table(["game", "model", "seeds", "TFLOP", *COLUMNS.values()], body)


def fine_tuning_table(results: list[Result]) -> str:
    """Markdown: a row per held-out game, frames of it, and what the model started from."""
    body = []
    for game in _held_out(results):
        for amount in sorted({result.amount for result in results if result.game == game}):
            for arm in (TOGETHER, *ARMS):
                chosen = [r for r in results if (r.game, r.model, r.amount) == (game, arm, amount)]
                if chosen:
                    label = "not fine-tuned" if arm == TOGETHER else arm
                    body += _row(chosen, game, label, f"{_mean([r.num_frames for r in chosen]):.0f}")
    return markdown_table(["held-out game", "from", "frames", "seeds", "TFLOP", *COLUMNS.values()], body)


def savings(results: list[Result]) -> list[str]:
    """How many frames a fine-tuned model needs for what each amount brings from nothing; a sentence for each."""
    sentences = []
    for game in _held_out(results):
        for column in COMPARED:
            for arm in FINE_TUNINGS:
                tuned = curve(results, game, arm, column)
                for frames, value in curve(results, game, NOTHING, column) if len(tuned) > 1 else []:
                    text = _saving(matching_frames(tuned, value), tuned)
                    what = f"{COLUMNS[column]} {value:.2f} after {frames:.0f} frames from nothing"
                    sentences.append(f"- {game}, {what}: {arm} {text}")
    return sentences


def curve(results: list[Result], game: str, arm: str, column: str) -> Curve:
    """Means over seeds; a fine-tuned model's begins where it was not fine-tuned, at 0 frames."""
    models = (arm,) if arm == NOTHING else (TOGETHER, arm)
    own = [result for result in results if result.game == game and result.model in models]
    amounts = [[r for r in own if r.amount == amount] for amount in sorted({result.amount for result in own})]
    return [(_mean([r.num_frames for r in group]), _mean([r.metrics[column] for r in group])) for group in amounts]


def matching_frames(points: Curve, value: float) -> float | None:
    """The least number of frames at which a curve reaches a value; None if it does not.

    Between two points it is taken to be straight in the logarithm of 1 + frames.
    """
    before: tuple[float, float] | None = None
    for frames, reached in points:
        if reached >= value:
            if before is None:
                return frames
            share = (value - before[1]) / (reached - before[1])
            return math.expm1((1 - share) * math.log1p(before[0]) + share * math.log1p(frames))
        before = frames, reached
    return None


def _saving(frames: float | None, points: Curve) -> str:
    if frames is None:
        return f"does not reach that with {points[-1][0]:.0f}"
    return "is as good without any" if frames == 0 else f"needs {frames:.0f}"


def plot(results: list[Result], path: Path) -> None:
    """Each trained game together and alone, and quality over frames of each held-out game, as PNG."""
    held_out = _held_out(results)
    figure = Figure(figsize=(11, 3.6 * (1 + len(held_out))), layout="constrained")
    axes = figure.subplots(1 + len(held_out), 2, squeeze=False)
    for axis, column in zip(axes[0], COMPARED, strict=True):
        _plot_games(axis, [result for result in results if result.amount], column)
    for row, game in zip(axes[1:], held_out, strict=True):
        for axis, column in zip(row, COMPARED, strict=True):
            _plot_curves(axis, results, game, column)
    save_figure(figure, path)


def _plot_games(axis: Axes, results: list[Result], column: str) -> None:
    games = _distinct(r.game for r in results if r.model in (TOGETHER, ALONE, ALONE_FULL))
    for number, model in enumerate((TOGETHER, ALONE, ALONE_FULL)):
        points = [(games.index(r.game), r.metrics[column]) for r in results if r.model == model]
        if points:
            axis.plot(*zip(*points, strict=True), "o", color=f"C{number}", alpha=0.6, label=model)
    if column == "pooled_psnr":
        still = [_mean([r.metrics["copy_last_pooled_psnr"] for r in results if r.game == game]) for game in games]
        axis.plot(still, "_", color="grey", markersize=14, label="copy-last baseline")
    axis.set_xticks(range(len(games)), games, rotation=60, ha="right", fontsize=7)
    axis.set_title(f"{COLUMNS[column]} [dB]", fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def _plot_curves(axis: Axes, results: list[Result], game: str, column: str) -> None:
    for number, arm in enumerate(ARMS):
        own = [r for r in results if (r.game, r.model) == (game, arm)]
        if own:
            color = f"C{number}"
            axis.plot([r.num_frames for r in own], [r.metrics[column] for r in own], "o", color=color, alpha=0.5)
            axis.plot(*zip(*curve(results, game, arm, column), strict=True), color=color, label=arm)
    if column == "pooled_psnr":
        still = _mean([r.metrics["copy_last_pooled_psnr"] for r in results if r.game == game])
        axis.axhline(still, color="grey", linestyle=":", label="copy-last baseline")
    axis.set_xscale("symlog", linthresh=100)
    axis.set_xlim(left=-5)
    axis.set_xlabel(f"frames of {game}")
    axis.set_title(f"{game}: {COLUMNS[column]} [dB]", fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def _row(results: list[Result], *first: str) -> list[list[str]]:
    if not results:
        return []
    cells = [mean_and_interval([r.metrics[name] for r in results if name in r.metrics]) for name in COLUMNS]
    seeds = _shown(_distinct(r.seed for r in results))
    return [[*first, seeds, f"{_tflop(results):.1f}", *cells]]


def _mean_row(results: list[Result], label: str, signs: dict[str, int]) -> list[str]:
    """A row of means over the games, of the seeds in which there are results of all games and of these models.

    `signs` says which models are added or taken off.
    """
    found = {(r.model, r.game, r.seed): r.metrics for r in results}
    games, seeds = _distinct(r.game for r in results), _distinct(r.seed for r in results)
    complete = [seed for seed in seeds if all((model, game, seed) in found for model in signs for game in games)]

    def mean(name: str, seed: int) -> float:
        terms = [sign * found[model, game, seed].get(name, math.nan) for game in games for model, sign in signs.items()]
        return sum(terms) / len(games)

    cells = [mean_and_interval([mean(name, seed) for seed in complete]) for name in COLUMNS]
    return ["mean over games", label, _shown(complete), "", *cells]


def _shown(seeds: list[int]) -> str:
    return " ".join(map(str, seeds)) or "none"


def _held_out(results: list[Result]) -> list[str]:
    return _distinct(result.game for result in results if result.model in ARMS)


def _tflop(results: list[Result]) -> float:
    return _mean([sum(cost["operations"] for cost in result.costs.values()) / 1e12 for result in results])


def _mean(values: list[float] | list[int]) -> float:
    return float(np.mean(values))


def _distinct(values: Iterable[str] | Iterable[int]) -> list:
    return list(dict.fromkeys(values))
