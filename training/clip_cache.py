"""Training clips with what frozen parts of a model compute of them, stored as training meets it.

A world model's frozen tokenizer gives the token ids of frames, and a frozen latent action model the errors of
transitions, from which it chooses latent actions.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from data.data import ClipDataset
from data.data_cached import CachedBatch, CachedClipDataset, RecordKind, RecordStore, consecutive, used_bytes
from data_generation.data.errors import FieldError, MissingPathError
from models.base import Model
from models.checkpoint import DECODER_NAMES
from models.lam import LatentActionModel
from models.tokenizer import Tokenizer
from models.world_model import WorldModel
from training.clips import Inputs, frames_to_float
from training.config import TrainConfig
from training.loading import FRAME_SETTINGS, TRAIN_ONLY_FIELDS
from training.runtime import Runtime

logger = logging.getLogger(__name__)

# Raise one when the same weights and configuration give other values: of `Tokenizer.encode` and of
# `LatentActionModel.transition_errors`.
ENCODER_VERSION, LAM_VERSION = 1, 1
_LAYOUT_VERSION = 2


@dataclass(frozen=True)
class FrozenOutput:
    """What a frozen part of a model computes of frames: the same each time."""

    kind: RecordKind  # named as in `Inputs`
    # Frames (n, T, C, H, W) in [0, 1] → values (n, T - kind.frames_per_value + 1, *kind.shape).
    compute: Callable[[Tensor], Tensor]
    part: str
    fingerprint: Callable[[], str]  # of all in that part that the values depend on


def kept_outputs(config: TrainConfig, model: Model) -> list[FrozenOutput]:
    """What is kept of clips: all, nothing, or where `enable_cache` is not set what clips share, of a frame or two."""
    if not model.takes_token_ids:
        return []
    found = _frozen_outputs(cast(WorldModel, model))
    if config.enable_cache is None:
        return [output for output in found if not output.kind.by_clip]
    return found if config.enable_cache else []


def _frozen_outputs(model: WorldModel) -> list[FrozenOutput]:
    tokenizer, lam = model.tokenizer, model.transition_lam
    stored = "<u2" if tokenizer.quantizer.codebook_size <= 1 << 16 else "<u4"
    grid = (tokenizer.grid, tokenizer.grid)
    ids = RecordKind("ids", grid, "int64", stored, by_clip=not tokenizer.takes_frames_alone)
    found = [FrozenOutput(ids, tokenizer.encode, "tokenizer", lambda: tokenizer_fingerprint(tokenizer))]
    if lam is not None:
        errors = RecordKind("transition_errors", (lam.config.num_actions + 1,), "float32", "<f4", frames_per_value=2)
        found.append(FrozenOutput(errors, lam.transition_errors, "lam", lambda: lam_fingerprint(lam)))
    return found


class ClipCache:
    """What a training run reads and stores of frozen parts' outputs, in one folder for all of its clips."""

    def __init__(self, config: TrainConfig, model: WorldModel, runtime: Runtime):
        """`FieldError` where `cache_dpath` cannot be used."""
        self._runtime, self._outputs = runtime, kept_outputs(config, model)
        # What is not kept is computed of frames.
        self._needs_video = model.needs_video or all(output.kind.name != "ids" for output in self._outputs)
        dpath = cache_dpath(config)
        # The limit is on all that is stored there; processes share what is left of it.
        limit = config.cache_max_gb * 1e9 or float("inf")
        used = max(gather_object([used_bytes(dpath) if runtime.is_main else 0]))
        self._store = RecordStore(dpath, max(0.0, limit - used) / runtime.num_processes)
        # Decides which of two codes wins that are equally near.
        arithmetic = f"{runtime.device.type} {'bfloat16' if runtime.amp_dtype else 'float32'}"
        try:
            for output in self._outputs:
                source = {"layout": _LAYOUT_VERSION, output.part: output.fingerprint(), "arithmetic": arithmetic}
                self._store.add(output.kind, source)
        except OSError as error:
            problem, remedy = f"cannot be written ({error.strerror})", "name another folder or set {enable_cache}=false"
            raise FieldError("cache_dpath", dpath, problem, remedy) from None

    def source(self, clips: ClipDataset) -> "CachedSource":
        """The clips with what is kept of them."""
        for output in self._outputs if self._runtime.is_main else ():
            kind, values = output.kind, output.kind.name.replace("_", " ")
            size, count = kind.record_size(clips.num_frames), clips.num_sequences(kind.record_length(clips.num_frames))
            what = f"the {output.part}'s {values} of the '{clips.split}' clips"
            total = f"{size} bytes each, {size * count / 1e9:.2f} GB for all {count}"
            logger.info("%s in '%s': %s", what, self._store.dpath, total)
        return CachedSource(clips, self._store, self._outputs, self._needs_video, self._runtime)


class CachedSource:
    """Clips with kept outputs of frozen parts, for a world model; see `ClipSource`.

    Losses are those without a cache. Values are computed in the arithmetic of this run; which of two codes wins that
    are equally near to within rounding may depend on the batch in which they were computed, as it does without a cache.
    """

    def __init__(
        self,
        clips: ClipDataset,
        store: RecordStore,
        outputs: list[FrozenOutput],
        needs_video: bool,
        runtime: Runtime,
    ):
        self._store, self._outputs, self._needs_video, self._runtime = store, outputs, needs_video, runtime
        self.clips = CachedClipDataset(clips, store, [output.kind for output in outputs], all_frames=needs_video)

    def inputs(self, batch: CachedBatch) -> Inputs:
        """The batch on the device, all values known; stores those that were missing."""
        batch = batch.to(self._runtime.device)
        for output in self._outputs:
            if batch.records[output.kind.name].missing:
                self._compute(output, batch)
        known = {name: records.values for name, records in batch.records.items()}
        return Inputs(frames_to_float(batch.frames) if self._needs_video else None, batch.actions, **known)

    def _compute(self, output: FrozenOutput, batch: CachedBatch) -> None:
        """Fill in the values of one kind that are missing, and store them."""
        records = batch.records[output.kind.name]
        with self._runtime.autocast():
            computed = output.compute(frames_to_float(batch.missing_frames(output.kind.name)))
        records.fill(computed)
        values = computed.cpu().numpy()
        for first, places in consecutive([record.key for record in records.missing]):
            self._store.write(output.kind, first, values[places])


def cache_dpath(config: TrainConfig) -> Path:
    """The cache's folder. An unknown parent folder is an error: a typing error, or a disk that is not mounted."""
    if config.cache_dpath is None:
        return Path(config.save_root_dpath) / "token_ids"
    path = Path(config.cache_dpath)
    if not path.parent.is_dir():
        raise MissingPathError("cache_dpath", path, f"there is no folder '{path.parent}'", "make it or name another")
    return path


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """32 hexadecimal digits, equal only for tokenizers that give equal ids: a hash of configuration and weights.

    The decoder is omitted, since `encode` does not use it: ids outlive `train.train_decoder_only`.
    """
    sizes = asdict(tokenizer.config)
    del sizes["gradient_checkpointing"]  # changes no result
    return _fingerprint([ENCODER_VERSION, sizes], tokenizer, DECODER_NAMES)


def lam_fingerprint(lam: LatentActionModel) -> str:
    """As `tokenizer_fingerprint`, for latent action models that give equal errors of transitions.

    Omitted is what `transition_errors` does not use: the encoder, and how codes are chosen from these errors.
    """
    sizes = {name: value for name, value in asdict(lam.config).items() if name not in TRAIN_ONLY_FIELDS}
    frames = {name: getattr(lam.tokenizer_config, name) for name in FRAME_SETTINGS}
    return _fingerprint([LAM_VERSION, sizes, frames], lam, ("encoder.", "to_action."))


def _fingerprint(facts: list[Any], module: nn.Module, omitted: tuple[str, ...]) -> str:
    """Of facts and of all weights but those whose names begin with something `omitted`."""
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        if not name.startswith(omitted):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
