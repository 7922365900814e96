"""Fréchet Inception Distance (Heusel et al. 2017), where the published weights are present."""

import hashlib
import logging
import shutil
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from data_generation.data.errors import UserError, one_line
from data_generation.data.files import atomic_path
from training.inception import load_inception
from training.runtime import Runtime

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"
# Public release of the port of the TensorFlow weights; the name ends in the start of the file's SHA-256.
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_NAME}"
_CACHED_NAMES = (WEIGHTS_NAME, "pt_inception-2015-12-05-6726825d.pth")  # two publishers of the same bytes
_DOWNLOAD_TIMEOUT = 15.0  # seconds without a byte
_INCEPTION_BATCH = 32


class Fid:
    """FID between two sets of frames, by a network of `num_features` features of uint8 images (N, 3, H, W).

    Sums over all processes are exact: `compute` joins them.
    """

    def __init__(self, features: nn.Module, device: torch.device):
        # Its sums are in float64, which Metal has not.
        self._device = torch.device("cpu") if device.type == "mps" else device
        self.metric = FrechetInceptionDistance(feature=features).to(self._device)

    def update(self, frames: Tensor, real: bool) -> None:
        """Add frames (..., 3, H, W) float; values outside [0, 1] are clamped."""
        images = (frames.flatten(0, -4).clamp(0, 1) * 255).round().to(torch.uint8)
        for chunk in images.to(self._device).split(_INCEPTION_BATCH):
            self.metric.update(chunk, real=real)

    def compute(self) -> float:
        """FID over the frames of all processes (at least two of each kind)."""
        return float(self.metric.compute())


def make_fid(configured: str | None, num_channels: int, runtime: Runtime) -> tuple[Fid | None, str]:
    """The metric, or None and one line that says why there is none and how to get it; alike on all processes.

    `configured` (the field `fid_weights`): None takes the file in torch's hub cache or downloads it there; "none" means
    no FID; else a file, whose absence is a MissingPathError. Frames of other than 3 `num_channels` have no FID.
    """
    if configured is not None and configured.lower() == "none":
        return None, "no FID: eval.fid_weights=none"
    if num_channels != 3:
        return None, f"no FID: it is for frames of 3 channels, these have {num_channels}"
    path = Path(configured) if configured else _cached_weights()
    if path is None and runtime.accelerator.is_local_main_process:
        path = _download()
    runtime.wait_for_everyone()
    path = path or _cached_weights()
    fid, reason = (
        None,
        (
            f"no FID: the Inception-v3 weights are not here and could not be downloaded; fetch {WEIGHTS_URL} "
            f"into {_cache_folder()} (of every machine) or name the file by eval.fid_weights"
        ),
    )
    if path is not None:
        try:
            fid, reason = Fid(load_inception(path), runtime.device), ""
        except UserError as error:
            if configured:
                raise
            # Nobody has asked for this file.
            reason = f"no FID: {error}"
    # All compute it together, or none.
    reason = next(filter(None, gather_object([reason])), "")
    return None if reason else fid, reason


def score(fid: Fid | None) -> tuple[dict[str, float], str]:
    """The metric by its name, or one line that says why it cannot be computed; ({}, "") for no metric."""
    if fid is None:
        return {}, ""
    try:
        return {"fid": fid.compute()}, ""
    except (RuntimeError, ValueError, ArithmeticError) as error:
        return {}, f"no FID: {one_line(error)}"


def _cache_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _cached_weights() -> Path | None:
    candidates = (_cache_folder() / name for name in _CACHED_NAMES)
    with suppress(OSError):
        return next((path for path in candidates if path.is_file()), None)
    return None


def _download() -> Path | None:
    """Fetch the weights into torch's hub cache; None where there is no internet or nothing can be written there."""
    target = _cache_folder() / WEIGHTS_NAME
    expected = target.stem.rsplit("-", 1)[1]
    try:
        with atomic_path(target) as temporary:
            with urllib.request.urlopen(WEIGHTS_URL, timeout=_DOWNLOAD_TIMEOUT) as source, temporary.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if not digest.startswith(expected):
                logger.warning("download of %s is damaged (SHA-256 %s…, not %s…)", WEIGHTS_URL, digest[:8], expected)
                raise ConnectionError("damaged")
    except (OSError, HTTPException) as error:
        logger.debug("cannot download %s: %s", WEIGHTS_URL, error)
        return None
    return target
