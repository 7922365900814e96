"""Training clips with cached token ids: what is not stored yet is encoded and stored as training meets it."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from data.data import WindowDataset, Windows
from data.data_cached import CachedBatch, CachedWindowDataset, IdSource, IdStore, Room, used_bytes
from models.construct_model import WORLD_MODELS
from models.genie_redux import GenieRedux
from models.tokenizer import Tokenizer
from training.clips import Inputs, frames_to_float
from training.config import GenieReduxConfig
from training.runtime import Runtime

logger = logging.getLogger(__name__)

# Raise it when `Tokenizer.encode` computes other ids from the same weights and configuration.
ENCODER_VERSION = 1


class TokenCache:
    """The token ids that a training run reads and stores, in one folder for all of its windows."""

    def __init__(self, cfg: GenieReduxConfig, model: GenieRedux, runtime: Runtime):
        """ValueError or FileNotFoundError where `train.cache_dpath` cannot be used."""
        self._model, self._runtime, self._dpath = model, runtime, cache_dpath(cfg)
        self._tokenizer = fingerprint(model.tokenizer)
        limit = cfg.train.cache_max_gb * 1e9 or float("inf")
        # The limit is on all tokenizers' ids together; processes share what is left of it.
        self._room = Room(max(0.0, limit - used_bytes(self._dpath)) / runtime.num_processes)

    def source(self, windows: WindowDataset) -> "CachedSource":
        """The windows with their token ids."""
        tokenizer, runtime = self._model.tokenizer, self._runtime
        ids = IdSource(
            tokenizer=self._tokenizer,
            arithmetic=f"{runtime.device.type} {'bfloat16' if runtime.amp_dtype else 'float32'}",
            codebook_size=tokenizer.quantizer.codebook_size,
            grid=(tokenizer.grid, tokenizer.grid),
            num_frames=windows.num_frames,
            seq_step=windows.seq_step,
        )
        store = IdStore(self._dpath, ids, self._room)
        if runtime.is_main:
            size, count = store.record_size, len(windows)
            total = f"{size} bytes each, {size * count / 1e9:.2f} GB for all {count}"
            logger.info("token ids of the '%s' windows in '%s': %s", windows.split, store.folder, total)
        return CachedSource(windows, store, self._model, runtime)


class CachedSource:
    """Windows with token ids, for a world model; see `ClipSource`.

    Losses are those without a cache. Ids are computed in the arithmetic of this run; which of two codes wins that are
    equally near to within rounding may depend on the batch in which they were computed, as it does without a cache.
    """

    def __init__(self, windows: WindowDataset, store: IdStore, model: GenieRedux, runtime: Runtime):
        self._tokenizer, self._needs_video, self._runtime = model.tokenizer, model.needs_video, runtime
        self._store = store
        self.windows: Windows = CachedWindowDataset(windows, store, all_frames=model.needs_video)

    def inputs(self, batch: CachedBatch) -> Inputs:
        """The batch on the device, all ids known."""
        batch = batch.to(self._runtime.device, non_blocking=True)
        if batch.missing:
            batch.ids[batch.missing] = self._encode(batch)
        video = frames_to_float(batch.frames) if self._needs_video else None
        return Inputs(video, batch.actions, batch.ids)

    def _encode(self, batch: CachedBatch) -> Tensor:
        """Ids (M, T, h, w) of the clips that have none stored; stores them."""
        with self._runtime.autocast():
            ids = self._tokenizer.encode(frames_to_float(batch.missing_frames()))
        for place, clip in zip(batch.places, ids.cpu().numpy(), strict=True):
            if place is not None:
                self._store.write(place, clip)
        return ids


def check_cache(cfg: GenieReduxConfig) -> None:
    """ValueError for a size that cannot work; a warning where there is nothing to cache."""
    if cfg.train.cache_max_gb < 0:
        raise ValueError(f"train.cache_max_gb={cfg.train.cache_max_gb} must not be negative: use 0 for no limit")
    if cfg.train.enable_cache and cfg.model not in WORLD_MODELS:
        logger.warning("train.enable_cache has no effect: a %s trains on frames, not on token ids", cfg.model)


def cache_dpath(cfg: GenieReduxConfig) -> Path:
    """The folder of token ids. FileNotFoundError where a named one lies in no existing folder: a typing error, or a
    disk that is not there."""
    if cfg.train.cache_dpath is None:
        return Path(cfg.train.save_root_dpath) / "token_ids"
    path = Path(cfg.train.cache_dpath)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"train.cache_dpath='{path}' cannot be made: there is no folder '{path.parent}'; make it or name another"
        )
    return path


def fingerprint(tokenizer: Tokenizer) -> str:
    """32 hexadecimal digits, equal only for tokenizers that give equal ids: a hash of configuration and weights.

    The decoder is left out, since `encode` does not use it: ids outlive `train.train_decoder_only`.
    """
    sizes = asdict(tokenizer.config)
    del sizes["gradient_checkpointing"]  # changes no result
    config = json.dumps([ENCODER_VERSION, sizes], sort_keys=True)
    digest = hashlib.blake2b(config.encode(), digest_size=16)
    for name, tensor in sorted(tokenizer.state_dict().items()):
        if name.startswith(("decoder.", "to_pixels.")):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
