"""How much compute do this project and the original's own code need for the same quality? Run again, it resumes.

    python -m benchmarks.time_to_quality --original <checkout>

The checkout is one of the public fork timoklein/GenieRedux; its code needs `pip install beartype` and runs in
processes of its own (`original_code.py`). Both sides train a tokenizer and a guided world model of the demo's sizes on
the demo's dataset, a quarter of the FLOPs for the tokenizer. Every budget is a run of its own, with a learning
rate that falls over it. This project's evaluation judges both on the same held-out clips. CPU-seconds are those
of the whole training commands, with one thread.
"""

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.equal_compute import launch
from benchmarks.quality.comparison import Comparison, generate
from benchmarks.quality.data import ALL_DATA
from benchmarks.quality.report import shown_seconds
from benchmarks.time_to_quality.original import OriginalRun, write_clips
from data_generation.data.files import write_atomically

DATA = ALL_DATA["one_level"]
DATASET = DATA.dataset_name("seen")
# As the original samples frames.
_LIKELIEST = "dynamics.history_tokens=likeliest"
METHODS = {
    "autoregressive": ("eval.inference_method=autoregressive", "eval.dream_length=1", _LIKELIEST),
    "one_go": ("eval.inference_method=one_go",),
}
MEASURES = {"pooled_psnr": "pooled PSNR", "changed_pooled_psnr": "of changed pixels", "delta_psnr": "ΔPSNR"}
COSTS = {"operations": "operations", "cpu_seconds": "CPU-seconds"}
# Whose code, with which recipe.
NAMES = {"original": "original", "tuned": "ours, tuned", "published": "ours, published"}
# Code, the cost of each part and their sums, and the metrics of each method.
Result = dict[str, Any]
# The world model's checkpoint and the cost of each part.
Trained = tuple[Path, dict[str, dict[str, float]]]


def train_ours(root: Path, arm: str, minutes: float, seed: int) -> Trained:
    """Train an arm of `benchmarks.quality` with the operations of so many minutes."""
    return Comparison(root, DATA, arm, minutes, seed).train()


def measured(root: Path, name: str, code: str, train: Callable[[], Trained]) -> Result:
    """Train and evaluate what is missing; the result, which is also in a file."""
    target = root / "evaluation" / name
    path = target / "result.json"
    if not path.is_file():
        model, costs = train()
        sums = {key: sum(cost[key] for cost in costs.values()) for key in ("operations", "cpu_seconds")}
        recipe = "recipe=tuned" if code == NAMES["tuned"] else "recipe=published"
        metrics = {name: evaluate(root, model, target / name, (recipe, *method)) for name, method in METHODS.items()}
        write_atomically(path, json.dumps({"code": code, "costs": costs, **sums, **metrics}, indent=2) + "\n")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def evaluate(root: Path, model: Path, target: Path, method: tuple[str, ...]) -> dict[str, float]:
    """The measures on held-out clips: 6 frames after 2 prime frames."""
    target.mkdir(parents=True, exist_ok=True)
    launch(
        *("genie_redux", "eval", "config=demo", *method, f"eval.model_fpath={model}"),
        *(f"eval.dataset_root_dpath={root / 'datasets'}", f"eval.dataset_name={DATASET}", "eval.split=validation"),
        *("eval.n_total_samples=128", "eval.seq_step=8", "eval.n_gifs=0", "eval.fid_weights=none"),
        *("eval.eval_lite0=false", "eval.action_following_steps=0", f"eval.save_root_dpath={target}"),
    )
    (path,) = target.rglob("metrics.json")
    return dict(json.loads(path.read_text(encoding="utf-8"))["metrics"])


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    head = ("code", "steps", "TFLOP", "CPU s", "method", *MEASURES.values(), "tokenizer alone", "copy-last")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for result in results:
        steps = " + ".join(str(cost["steps"]) for cost in result["costs"].values())
        cost = f"{result['operations'] / 1e12:.1f} | {shown_seconds(result['cpu_seconds'])}"
        for method in METHODS:
            names = (*MEASURES, "tokenizer_pooled_psnr", "copy_last_pooled_psnr")
            cells = [f"{result[method][name]:.2f}" for name in names]
            lines.append(f"| {result['code']} | {steps} | {cost} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
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
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run what is missing; write and print the table, the plot and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="checkout of the original's code")
    parser.add_argument("--root", type=Path, default=Path("outputs/time_to_quality"), help="where everything is kept")
    parser.add_argument("--original-tflop", nargs="+", type=float, default=[10, 40], help="FLOPs of its budgets")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 2, 3, 10], help="as in benchmarks.quality")
    parser.add_argument("--published-minutes", nargs="*", type=float, default=[], help="of this project's code, too")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generate(args.root, DATA, unseen=False)
    write_clips(args.root / "datasets" / DATASET, args.root / "clips", num_frames=8)
    results = []
    for arm, budgets in (("tuned", args.minutes), ("published", args.published_minutes)):
        for minutes in budgets:
            train = partial(train_ours, args.root, arm, minutes, args.seed)
            results.append(measured(args.root, f"{arm}-{minutes:g}min-seed{args.seed}", NAMES[arm], train))
    for tflop in args.original_tflop:
        run = OriginalRun(args.root, args.original, tflop * 1e12, args.seed)
        results.append(measured(args.root, run.dpath.name, NAMES["original"], run.train))
    sentences = [saving(results, cost, method) for cost in COSTS for method in METHODS]
    text = "\n".join([table(results), "", *sentences])
    print(text)
    write_atomically(args.root / "table.md", text + "\n")
    plot(results, args.root / "plot.png")


if __name__ == "__main__":
    main()
