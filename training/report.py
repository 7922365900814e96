"""What an evaluation leaves behind: metrics.json, a plot, strips and animations."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from models.config import ModelConfig
from training.config import GenieReduxConfig
from training.metrics import mean
from training.pictures import (
    PREDICTED,
    RECORDED,
    Row,
    animation,
    save_curves,
    save_gif,
    save_png,
    stack_strips,
    strip,
)

_CURVES = {
    "psnr": "prediction",
    "random_actions_psnr": "random actions",
    "copy_last_psnr": "last given frame, repeated",
    "tokenizer_psnr": "tokenizer's reconstruction",
    "psnr_to_last_given_frame": "to the last given frame",
    "psnr_to_random_actions": "to random actions",
}
_EXPLAINED = {
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "fid": "FID",
    "delta_psnr": "ΔPSNR [dB] (true − random actions)",
    "random_actions_psnr": "PSNR with random actions",
    "copy_last_psnr": "PSNR of repeating the last given frame",
    "copy_last_ssim": "SSIM of repeating the last given frame",
    "tokenizer_psnr": "PSNR of the tokenizer alone (bound)",
    "tokenizer_ssim": "SSIM of the tokenizer alone (bound)",
    "psnr_to_last_given_frame": "PSNR to the last given frame (lower = more motion)",
    "psnr_to_random_actions": "PSNR to random actions (lower = the action matters more)",
}
_SHEET_CLIPS = 8  # clips on the one sheet of strips


@dataclass
class Report:
    """Results of one evaluation. `rows`: values per clip (N,) or per clip and frame (N, T), and the kept pictures."""

    mode: str
    label: str
    checkpoint: str
    step: int
    num_given: int
    rows: dict[str, np.ndarray]
    extra: dict[str, float]
    notes: list[str]
    seconds: float


def write_report(folder: Path, report: Report, cfg: GenieReduxConfig, config: ModelConfig) -> None:
    """Write everything under a temporary name, then put it in the place of an earlier report."""
    if folder.exists() and not (folder / "metrics.json").is_file():
        raise ValueError(f"'{folder}' is not an evaluation's folder: move it away or set eval.save_root_dpath")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        rows = dict(report.rows)
        recorded, predicted = rows.pop(RECORDED, None), rows.pop(PREDICTED, None)
        if recorded is not None and predicted is not None:
            _write_pictures(temporary, report, recorded, predicted)
        curves = {label: rows[name].mean(axis=0).tolist() for name, label in _CURVES.items() if name in rows}
        save_curves(curves, f"{config.model}, step {report.step}: {report.mode}", temporary / "psnr_per_frame.png")
        metrics = _metrics(report, rows, cfg, config)
        (temporary / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def summary(folder: Path) -> str:
    """A small table of a report's metrics, and where to look."""
    content = json.loads((folder / "metrics.json").read_text())
    names = list(content["metrics"])
    width = max(len(_EXPLAINED.get(name, name)) for name in names)
    lines = [f"{content['model']} step {content['step']}: {content['mode']} on {content['num_clips']} clips"]
    lines += [f"  {_EXPLAINED.get(name, name):<{width}}  {content['metrics'][name]:.4g}" for name in names]
    lines += [f"  {note}" for note in content["notes"]]
    lines.append(f"results, strips and animations: {folder}")
    return "\n".join(lines)


def _metrics(report: Report, rows: dict[str, np.ndarray], cfg: GenieReduxConfig, config: ModelConfig) -> dict[str, Any]:
    first = next(iter(rows.values()))
    return {
        "model": config.model,
        "checkpoint": report.checkpoint,
        "step": report.step,
        "dataset": cfg.eval.dataset_name,
        "split": cfg.eval.split,
        "mode": report.mode,
        "num_clips": len(first),
        "num_frames_per_clip": first.shape[1],
        "metrics": {name: mean(values) for name, values in rows.items()} | report.extra,
        "per_frame": {name: rows[name].mean(axis=0).tolist() for name in rows if rows[name].ndim == 2},
        "notes": report.notes,
        "seconds": round(report.seconds, 2),
        "settings": {"eval": asdict(cfg.eval), "seed": cfg.seed, "device": cfg.device, "precision": cfg.precision},
        "model_config": asdict(config),
        "versions": {name: version(name) for name in ("torch", "torchmetrics", "numpy", "accelerate")},
    }


def _write_pictures(folder: Path, report: Report, recorded: np.ndarray, predicted: np.ndarray) -> None:
    strips = []
    for i, (real, made) in enumerate(zip(recorded, predicted, strict=True)):
        rows = (Row("recorded", real, report.num_given), Row(report.label, made, report.num_given))
        strips.append(strip(rows))
        save_png(strips[-1], folder / f"clip-{i:03d}.png")
        save_gif(animation(rows), folder / f"clip-{i:03d}.gif")
    save_png(stack_strips(strips[:_SHEET_CLIPS]), folder / "strips.png")
