"""What an evaluation leaves behind: metrics.json, a plot, strips and animations."""

import json
import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.errors import FieldError
from data_generation.data.files import atomic_path, check_writable, first_foreign
from data_generation.data.media import LabelledVideo, animation, stack_strips, strip, write_gif, write_png
from models.config import ModelConfig
from models.provenance import code_commit
from models.tensor_file import digest
from training.config import EvaluationSetup
from training.images import GIF_FPS, PREDICTED, RECORDED, save_curves
from training.metrics import averages, averages_per_frame

_CURVES = {
    "": "prediction",
    "random_actions_": "random actions",
    "copy_last_": "copy-last baseline",
    "copy_previous_": "frame before, repeated",
    "tokenizer_": "tokenizer alone",
    "enlarged_": "super-resolution",
    "bicubic_": "bicubic interpolation",
}
_CONTROL_CURVES = {
    "psnr_to_last_given_frame": "to the last prime frame",
    "psnr_to_random_actions": "to random actions",
}
_PANELS = {
    "psnr": "mean of the frames' PSNR",
    "pooled_psnr": "PSNR of the mean squared error",
    "changed_pooled_psnr": "the same, of pixels that change",
}
_COLUMNS = {
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "pooled_psnr": "pooled PSNR [dB]",
    "changed_pooled_psnr": "changed [dB]",
}
_SINGLE = {
    "changed_share": "share of pixels that change",
    "fid": "FID",
    "lite0_frechet": "Fréchet distance on EfficientNet-Lite0 (not FID)",
    "lite0_kernel": "kernel distance on EfficientNet-Lite0 (not KID)",
    "delta_psnr": "ΔPSNR [dB] (recorded − random actions)",
    "action_following": "action following: recorded actions read off the predicted frames",
    "action_following_ceiling": "action following: ceiling, off the recorded frames",
    "action_following_floor": "action following: floor, off frames under random actions",
    "action_following_random": "action following: random actions read off their frames",
    "token_accuracy": "token accuracy of the next frame",
    "calibration_auroc": "calibration: AUROC of entropy for wrong tokens (0.5 = chance)",
    "calibration_changed_auroc": "calibration: the same, among tokens that change",
    "calibration_frame_spearman": "calibration: rank correlation of a frame's entropy and error",
    "calibration_ece": "calibration: expected calibration error (ECE)",
    "counterfactual_pooled_psnr": "counterfactuals: pooled PSNR [dB] to the game's own future",
    "counterfactual_other_pooled_psnr": "counterfactuals: pooled PSNR [dB] to the game's futures under other actions",
    "counterfactual_copy_last_pooled_psnr": "counterfactuals: pooled PSNR [dB] of the copy-last baseline",
    "counterfactual_delta_psnr": "counterfactuals: ΔPSNR [dB] (the action − other actions)",
    "counterfactual_ranking": "counterfactuals: own future nearer than another's (0.5 = chance)",
    "psnr_to_last_given_frame": "PSNR [dB] to the last prime frame (lower = more motion)",
    "psnr_to_random_actions": "PSNR [dB] to random actions (lower = the action matters more)",
    "latent_perplexity": "latent actions in use, effectively (perplexity)",
    "latent_used": "share of latent actions that occur",
    "latent_nmi": "latent and recorded actions: normalised mutual information",
    "latent_nmi_chance": "normalised mutual information of clips that do not belong together (chance)",
    "latent_probe_id_accuracy": "recorded action predicted from the latent action's number: accuracy",
    "latent_probe_code_accuracy": "recorded action predicted from the latent action's code: accuracy",
    "latent_probe_majority_accuracy": "accuracy of always naming the commonest action",
}
# Values at single frames of long rollouts, by what stands before the frame's number.
_DRIFT = {
    "drift_pooled_psnr_": "drift: pooled PSNR [dB]",
    "drift_copy_last_pooled_psnr_": "drift: pooled PSNR [dB] of the copy-last baseline",
    "drift_position_accuracy_": "drift: the character is where the game has it, share of rollouts",
    "drift_ceiling_position_accuracy_": "drift: the same, off the recorded frames (ceiling)",
    "drift_copy_last_position_accuracy_": "drift: the same, copy-last baseline",
    "drift_position_error_": "drift: distance to there in pixels, median",
}
# What is in an evaluation's folder, and what is left in it of a process that was killed there.
_OWN_FILES = (
    *("metrics.json", "run.json", "report.html", "psnr_per_frame.png", "strips.png"),
    *("clip-*.png", "clip-*.gif", "film-*.gif", ".*.tmp"),
)
_SHEET_CLIPS = 8  # clips on the one sheet of strips


@dataclass
class EvaluationReport:
    """Results of one evaluation. `rows`: values per clip (N,) or per clip and frame (N, T), and the kept frames.

    `films`: kept frames of long rollouts, shown at `frame_rate`, the speed of play, in frames/s.
    """

    mode: str
    label: str
    checkpoint: str
    step: int
    num_given: int
    rows: dict[str, np.ndarray]
    films: dict[str, np.ndarray]
    frame_rate: float
    extra: dict[str, float]
    notes: list[str]
    seconds: float
    # Of one process, while the model predicts clips, which are measured; not all else that is done with them.
    measuring_seconds: float
    operations: float


def check_folder(folder: Path, save_root_dpath: str) -> None:
    """FieldError of `save_root_dpath` unless a report can be written to `folder`, where only a report may be."""
    name, remedy = "save_root_dpath", "move it away or set another folder"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FieldError(name, save_root_dpath, f"'{folder}' is not a folder", remedy)
    if (foreign := first_foreign(folder, _OWN_FILES)) is not None:
        problem = f"'{folder}' holds '{foreign}', which no evaluation wrote and which would be lost"
        raise FieldError(name, save_root_dpath, problem, remedy)
    try:
        check_writable(folder)
    except OSError as error:
        problem = f"'{folder}' cannot be written ({error.strerror or error})"
        raise FieldError(name, save_root_dpath, problem, "set another folder") from error


def write_report(folder: Path, report: EvaluationReport, setup: EvaluationSetup, config: ModelConfig) -> None:
    """Write everything under a temporary name, then put it in the place of an earlier report."""
    check_folder(folder, setup.eval.save_root_dpath)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        rows = dict(report.rows)
        recorded, predicted = rows.pop(RECORDED, None), rows.pop(PREDICTED, None)
        if recorded is not None and predicted is not None:
            _write_images(temporary, report, recorded, predicted)
        if report.films:
            _write_films(temporary, report)
        title = f"{config.model}, step {report.step}: {report.mode}"
        save_curves(_panels(averages_per_frame(rows), _labels(report.mode)), title, temporary / "psnr_per_frame.png")
        metrics = _metrics(report, rows, setup, config)
        text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
        (temporary / "metrics.json").write_text(f"{text}\n", encoding="utf-8")


def summary(folder: Path) -> str:
    """A small table of a report's metrics, and where to look."""
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    metrics = content["metrics"]
    lines = [f"{content['model']} step {content['step']}: {content['mode']} on {content['num_clips']} clips"]
    labels = _labels(content["mode"])
    rows = {prefix: label for prefix, label in labels.items() if f"{prefix}psnr" in metrics}
    if rows:
        lines.append(f"  {'':<26}" + "".join(f"{column:>18}" for column in _COLUMNS.values()))
    for prefix, label in rows.items():
        lines.append(f"  {label:<26}" + "".join(_cell(metrics, prefix + name) for name in _COLUMNS))
    lines += [f"  {label}: {metrics[name]:.4g}" for name, label in _SINGLE.items() if name in metrics]
    lines += [f"  {label}: {values}" for prefix, label in _DRIFT.items() if (values := _per_frame(metrics, prefix))]
    if "drift_action_following" in metrics:
        lines += [
            f"  actions read off the second half of these rollouts: {metrics['drift_action_following']:.4g}",
            f"    off the recorded frames (ceiling): {metrics['drift_action_following_ceiling']:.4g}",
        ]
    lines += [f"  {note}" for note in content["notes"]]
    lines.append(f"results, strips and animations: {folder}")
    return "\n".join(lines)


def metric_rows(content: dict[str, Any]) -> list[tuple[str, float]]:
    """Label and value of each metric of a metrics.json that has a label, but those of drift."""
    metrics = content["metrics"]
    named = {
        f"{prefix}{name}": f"{label}: {column}"
        for prefix, label in _labels(content["mode"]).items()
        for name, column in _COLUMNS.items()
    }
    named |= _SINGLE
    return [(label, metrics[name]) for name, label in named.items() if name in metrics]


def _labels(mode: str) -> dict[str, str]:
    """What is compared with the recorded frames, by the prefix of its measures."""
    return _CURVES | ({"": "reconstruction"} if mode == "reconstruct" else {})


def _per_frame(metrics: dict[str, float], prefix: str) -> str:
    values = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    return ", ".join(f"frame {t}: {value:.4g}" for t, value in values.items())


def _cell(metrics: dict[str, float], name: str) -> str:
    return f"{metrics[name]:>18.4g}" if name in metrics else f"{'':>18}"


def _panels(per_frame: dict[str, list[float]], labels: dict[str, str]) -> dict[str, dict[str, list[float]]]:
    """Curves by label, by the title of the panel that they belong to; panels without curves are omitted."""
    panels = {
        title: {label: per_frame[prefix + name] for prefix, label in labels.items() if prefix + name in per_frame}
        for name, title in _PANELS.items()
    }
    panels[_PANELS["psnr"]] |= {label: per_frame[name] for name, label in _CONTROL_CURVES.items() if name in per_frame}
    return {title: curves for title, curves in panels.items() if curves}


def _metrics(
    report: EvaluationReport, rows: dict[str, np.ndarray], setup: EvaluationSetup, config: ModelConfig
) -> dict[str, Any]:
    first = next(iter(rows.values()))
    metrics = averages(rows) | report.extra
    undefined = [name for name, value in metrics.items() if not math.isfinite(value)]
    # JSON has neither NaN nor infinity.
    per_frame = {
        name: [value if math.isfinite(value) else None for value in values]
        for name, values in averages_per_frame(rows).items()
    }
    return {
        "model": config.model,
        "checkpoint": report.checkpoint,
        "step": report.step,
        # Another model may come to lie at that path.
        "weights": digest(Path(report.checkpoint)),
        "dataset": setup.eval.dataset_name,
        "split": setup.eval.split,
        "mode": report.mode,
        "num_clips": len(first),
        "num_frames_per_clip": first.shape[1],
        "metrics": {name: value for name, value in metrics.items() if name not in undefined},
        "per_frame": per_frame,
        "notes": report.notes + [f"no {name}: it is not defined for these clips" for name in undefined],
        "seconds": round(report.seconds, 2),
        "measuring_seconds": round(report.measuring_seconds, 4),
        "operations_per_second": round(report.operations / max(report.measuring_seconds, 1e-9)),
        "settings": {"eval": asdict(setup.eval), "seed": setup.seed, **setup.settings},
        "model_config": asdict(config),
        "versions": {name: version(name) for name in ("torch", "torchmetrics", "numpy", "accelerate")},
        **({"commit": commit} if (commit := code_commit()) is not None else {}),
    }


def _write_films(folder: Path, report: EvaluationReport) -> None:
    """Long rollouts next to the recorded play, as GIFs at the speed of play."""
    for i, (real, made) in enumerate(zip(report.films[RECORDED], report.films[PREDICTED], strict=True)):
        videos = (LabelledVideo("game", real, report.num_given), LabelledVideo("model", made, report.num_given))
        write_gif(folder / f"film-{i:03d}.gif", animation(videos), report.frame_rate)


def _write_images(folder: Path, report: EvaluationReport, recorded: np.ndarray, predicted: np.ndarray) -> None:
    strips = []
    for i, (real, made) in enumerate(zip(recorded, predicted, strict=True)):
        given = report.num_given
        videos = (LabelledVideo("recorded", real, given), LabelledVideo(report.label, made, given))
        strips.append(strip(videos))
        write_png(folder / f"clip-{i:03d}.png", strips[-1])
        write_gif(folder / f"clip-{i:03d}.gif", animation(videos), GIF_FPS)
    write_png(folder / "strips.png", stack_strips(strips[:_SHEET_CLIPS]))
