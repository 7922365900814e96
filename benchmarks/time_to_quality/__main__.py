"""How much compute do this project and the original's own code need for the same quality? Run again, it resumes.

    python -m benchmarks.time_to_quality --original <checkout>

The checkout is one of the public fork timoklein/GenieRedux; its code needs `pip install beartype` and runs in
processes of its own (`original_code.py`). Both sides train a tokenizer and a guided world model of the demo's sizes on
the demo's dataset, a quarter of the FLOPs for the tokenizer (40 % in the tuned recipe). Every budget is a run of its
own, with a learning rate that falls over it. This project's evaluation judges both on the same held-out clips.
CPU-seconds are those of the whole training commands, with one thread.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.command_line import distinct, make_parser, positive_number, read_seed, run_command
from benchmarks.equal_compute import launch
from benchmarks.presets import check_evaluation
from benchmarks.quality.comparison import Comparison, generate
from benchmarks.quality.data import ALL_DATA
from benchmarks.quality.report import shown_seconds
from benchmarks.time_to_quality.original import OriginalRun, check_checkout, write_clips
from data_generation.arguments import read_path
from data_generation.data.files import write_atomically
from data_generation.data.markdown import markdown_table
from training.images import save_figure

DATA = ALL_DATA["one_level"]
DATASET = DATA.dataset_name("seen")
# As the original samples frames.
_LIKELIEST = "dynamics.history_tokens=likeliest"
SAMPLINGS = {
    "autoregressive": ("eval.inference_method=autoregressive", "eval.dream_length=1", _LIKELIEST),
    "one_go": ("eval.inference_method=one_go",),
}
_EVALUATION = (
    *("config=demo", "eval.n_total_samples=128", "eval.seq_step=8", "eval.fid_weights=none"),
    *("eval.eval_lite0=false", "eval.action_following_steps=0"),
)
MEASURES = {"pooled_psnr": "pooled PSNR", "changed_pooled_psnr": "of changed pixels", "delta_psnr": "ΔPSNR"}
COSTS = {"operations": "operations", "cpu_seconds": "CPU-seconds"}
# Whose code, with which recipe.
NAMES = {"original": "original", "tuned": "ours, tuned", "published": "ours, published"}
# Code, the cost of each part and their sums, and the metrics of each method.
Result = dict[str, Any]
# The world model's checkpoint and the cost of each part.
Trained = tuple[Path, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class OurRun:
    """A run of this project's code: an arm of `benchmarks.quality` with the operations of so many minutes."""

    comparison: Comparison

    def check(self) -> None:
        """UserError if what is there is of another recipe."""
        self.comparison.check_settings()

    def train(self) -> Trained:
        """Train what is missing. UserError if what is there is of another recipe."""
        return self.comparison.train()


def measured(root: Path, name: str, code: str, run: OurRun | OriginalRun) -> Result:
    """Train and evaluate what is missing; the result, which is also in a file.

    UserError if what is there is of another recipe, of other code or evaluated otherwise.
    """
    target = root / "evaluation" / name
    path = target / "result.json"
    recipe = "recipe=tuned" if code == NAMES["tuned"] else "recipe=published"
    if not path.is_file():
        model, costs = run.train()
        sums = {key: sum(cost[key] for cost in costs.values()) for key in ("operations", "cpu_seconds")}
        metrics = {name: evaluate(root, model, target / name, (recipe, *method)) for name, method in SAMPLINGS.items()}
        write_atomically(path, json.dumps({"code": code, "costs": costs, **sums, **metrics}, indent=2) + "\n")
    run.check()
    for method, overrides in SAMPLINGS.items():
        for done in (target / method).rglob("metrics.json"):
            check_evaluation(done.parent, *_EVALUATION, recipe, *overrides)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def evaluate(root: Path, model: Path, target: Path, method: tuple[str, ...]) -> dict[str, float]:
    """The measures on held-out clips: 6 frames after 2 prime frames."""
    target.mkdir(parents=True, exist_ok=True)
    launch(
        *("genie_redux", "eval", *_EVALUATION, *method, f"eval.model_fpath={model}", "eval.n_gifs=0"),
        *(f"eval.dataset_root_dpath={root / 'datasets'}", f"eval.dataset_name={DATASET}", "eval.split=validation"),
        f"eval.save_root_dpath={target}",
    )
    (path,) = target.rglob("metrics.json")
    return dict(json.loads(path.read_text(encoding="utf-8"))["metrics"])


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    head = ("code", "steps", "TFLOP", "CPU s", "method", *MEASURES.values(), "tokenizer alone", "copy-last")
    body = []
    for result in results:
        steps = " + ".join(str(cost["steps"]) for cost in result["costs"].values())
        cost = (f"{result['operations'] / 1e12:.1f}", shown_seconds(result["cpu_seconds"]))
        for method in SAMPLINGS:
            names = (*MEASURES, "tokenizer_pooled_psnr", "copy_last_pooled_psnr")
            cells = [f"{result[method][name]:.2f}" for name in names]
            body.append([result["code"], steps, *cost, method, *cells])
    return markdown_table(head, body)


def saving(results: list[Result], cost: str, method: str) -> str:
    """What this project needs for the highest values that the original reaches, as a sentence."""
    names = ("pooled_psnr", "delta_psnr")
    original, ours = ([r for r in results if r["code"] == NAMES[kind]] for kind in ("original", "tuned"))
    best = {name: max(result[method][name] for result in original) for name in names}
    aim = ", ".join(f"{MEASURES[name]} {value:.2f} dB" for name, value in best.items())
    reached = [result for result in ours if all(result[method][name] >= best[name] for name in names)]
    if not reached:
        return f"{method}, {aim}: not reached by this project"
    if any(math.isnan(result[cost]) for result in (*original, *reached)):
        return f"{method}, {aim}: {COSTS[cost]} not known, since a training was killed and resumed"
    # The original may have reached one of them with more compute than the other.
    theirs = max(min(r[cost] for r in original if r[method][name] == best[name]) for name in names)
    least = min(result[cost] for result in reached)
    return f"{method}, {aim}: {theirs / least:.1f} times fewer {COSTS[cost]} ({least:.3g}, not {theirs:.3g})"


def plot(results: list[Result], path: Path) -> None:
    """Quality over CPU-seconds, autoregressive sampling, as PNG."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, name in zip(axes, ("pooled_psnr", "delta_psnr"), strict=True):
        for code in dict.fromkeys(result["code"] for result in results):
            points = sorted((r["cpu_seconds"], r["autoregressive"][name]) for r in results if r["code"] == code)
            axis.plot(*zip(*points, strict=True), "o-", label=code)
        axis.set_xscale("log")
        axis.set_xlabel("CPU-seconds of training")
        axis.set_title(f"{MEASURES[name]} [dB]", fontsize=9)
        axis.grid(alpha=0.3)
    still = results[0]["autoregressive"]["copy_last_pooled_psnr"]
    axes[0].axhline(still, color="grey", linestyle=":", label="copy-last baseline")
    axes[0].legend()
    save_figure(figure, path)


def run(argv: Sequence[str]) -> None:
    """Run what is missing; write and print the table, the plot and the ratios."""
    parser = make_parser("time_to_quality", __doc__)
    parser.add_argument("--original", type=read_path, required=True, help="checkout of the original's code")
    parser.add_argument("--root", type=read_path, default=Path("outputs/time_to_quality"), help="of everything")
    parser.add_argument("--original-tflop", nargs="+", type=positive_number, default=[10, 40], help="its budgets")
    parser.add_argument("--minutes", nargs="+", type=positive_number, default=[1, 2, 3, 10], help="as in quality")
    parser.add_argument("--published-minutes", nargs="*", type=positive_number, default=[], help="of this code, too")
    parser.add_argument("--seed", type=read_seed, default=0)
    args = parser.parse_args(argv)
    check_checkout(args.original)
    generate(args.root, DATA, unseen=False)
    write_clips(args.root / "datasets" / DATASET, args.root / "clips", num_frames=8)
    runs: list[tuple[str, str, OurRun | OriginalRun]] = []
    for arm, option in (("tuned", "--minutes"), ("published", "--published-minutes")):
        for minutes in distinct(vars(args)[option.strip("-").replace("-", "_")]):
            comparison = Comparison(args.root, DATA, arm, minutes, args.seed)
            comparison.check_budget(option)
            runs.append((f"{arm}-{minutes:g}min-seed{args.seed}", NAMES[arm], OurRun(comparison)))
    for tflop in distinct(args.original_tflop):
        original = OriginalRun(args.root, args.original, tflop * 1e12, args.seed)
        original.check()
        runs.append((original.dpath.name, NAMES["original"], original))
    results = [measured(args.root, *run) for run in runs]
    sentences = [saving(results, cost, method) for cost in COSTS for method in SAMPLINGS]
    text = "\n".join([table(results), "", *sentences])
    print(text)
    write_atomically(args.root / "table.md", text + "\n")
    plot(results, args.root / "plot.png")


if __name__ == "__main__":
    sys.exit(run_command(run))
