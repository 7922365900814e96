"""Training clips with cached token ids: what is not stored yet is encoded and stored as training meets it."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch

from data.data import ClipDataset
from data.data_cached import CachedBatch, CachedClipDataset, TokenStore, used_bytes
from data_generation.data.errors import FieldError, MissingPathError
from data_generation.data.files import write_atomically
from models.base import Model
from models.tokenizer import Tokenizer
from models.world_model import WorldModel
from training.clips import Inputs, frames_to_float
from training.config import TrainConfig
from training.runtime import Runtime

logger = logging.getLogger(__name__)

# Raise it when `Tokenizer.encode` computes other ids from the same weights and configuration.
ENCODER_VERSION = 1
_LAYOUT_VERSION = 2


class TokenCache:
    """The token ids that a training run reads and stores, in one folder for all of its clips."""

    def __init__(self, config: TrainConfig, model: WorldModel, runtime: Runtime):
        """`FieldError` where `cache_dpath` cannot be used."""
        self._model, self._runtime = model, runtime
        dpath = cache_dpath(config)
        # The limit is on all tokenizers' ids together; processes share what is left of it.
        limit = config.cache_max_gb * 1e9 or float("inf")
        left = max(0.0, limit - used_bytes(dpath)) / runtime.num_processes
        source = {
            "layout": _LAYOUT_VERSION,
            "tokenizer": fingerprint(model.tokenizer),
            # Decides which of two codes wins that are equally near.
            "arithmetic": f"{runtime.device.type} {'bfloat16' if runtime.amp_dtype else 'float32'}",
        }
        text = json.dumps(source, indent=2) + "\n"
        folder = dpath / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        try:
            self._store = TokenStore(folder, model.tokenizer.quantizer.codebook_size, left)
            # Says to people what the folder holds, and shows here and not in mid-training that it can be written.
            write_atomically(folder / "source.json", text)
        except OSError as error:
            problem, remedy = f"cannot be written ({error.strerror})", "name another folder or set {enable_cache}=false"
            raise FieldError("cache_dpath", dpath, problem, remedy) from None

    def source(self, clips: ClipDataset) -> "CachedSource":
        """The clips with their token ids."""
        if self._runtime.is_main:
            tokenizer, dpath = self._model.tokenizer, self._store.dpath
            alone = tokenizer.takes_frames_alone
            size = self._store.record_size((1 if alone else clips.num_frames) * tokenizer.grid**2)
            count = clips.num_used_frames if alone else len(clips)
            what = f"'{clips.split}' {'frames' if alone else 'clips'}"
            total = f"{size} bytes each, {size * count / 1e9:.2f} GB for all {count}"
            logger.info("token ids of the %s in '%s': %s", what, dpath, total)
        return CachedSource(clips, self._store, self._model, self._runtime)


class CachedSource:
    """Clips with token ids, for a world model; see `ClipSource`.

    Losses are those without a cache. Ids are computed in the arithmetic of this run; which of two codes wins that are
    equally near to within rounding may depend on the batch in which they were computed, as it does without a cache.
    """

    def __init__(self, clips: ClipDataset, store: TokenStore, model: WorldModel, runtime: Runtime):
        self._tokenizer = tokenizer = model.tokenizer
        self._store, self._runtime, self._needs_video = store, runtime, model.needs_video
        grid, alone = (tokenizer.grid,) * 2, tokenizer.takes_frames_alone
        self.clips = CachedClipDataset(clips, store, grid, all_frames=model.needs_video, frames_alone=alone)

    def inputs(self, batch: CachedBatch) -> Inputs:
        """The batch on the device, all ids known; stores those that were missing."""
        batch = batch.to(self._runtime.device)
        if batch.missing:
            with self._runtime.autocast():
                ids = self._tokenizer.encode(frames_to_float(batch.missing_frames()))
            batch.records[batch.missing] = ids
            for key, record in zip(batch.keys, ids.cpu().numpy(), strict=True):
                if key is not None:
                    self._store.write(key, record)
        return Inputs(frames_to_float(batch.frames) if self._needs_video else None, batch.actions, batch.ids)


def caches_ids(config: TrainConfig, model: Model) -> bool:
    """Whether token ids are kept: where `enable_cache` says so or, by default, where clips share those of a frame."""
    if not model.takes_token_ids:
        return False
    by_frame = cast(WorldModel, model).tokenizer.takes_frames_alone
    return by_frame if config.enable_cache is None else config.enable_cache


def cache_dpath(config: TrainConfig) -> Path:
    """The folder of token ids. An unknown parent folder is an error: a typing error, or a disk that is not mounted."""
    if config.cache_dpath is None:
        return Path(config.save_root_dpath) / "token_ids"
    path = Path(config.cache_dpath)
    if not path.parent.is_dir():
        raise MissingPathError("cache_dpath", path, f"there is no folder '{path.parent}'", "make it or name another")
    return path


def fingerprint(tokenizer: Tokenizer) -> str:
    """32 hexadecimal digits, equal only for tokenizers that give equal ids: a hash of configuration and weights.

    The decoder is omitted, since `encode` does not use it: ids outlive `train.train_decoder_only`.
    """
    sizes = asdict(tokenizer.config)
    del sizes["gradient_checkpointing"]  # changes no result
    config = json.dumps([ENCODER_VERSION, sizes], sort_keys=True)
    digest = hashlib.blake2b(config.encode(), digest_size=16)
    for name, tensor in sorted(tokenizer.state_dict().items()):
        if not name.startswith(("decoder.", "to_pixels.")):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
