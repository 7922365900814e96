"""Whether a world model's uncertainty ranks its errors.

The model sees the recorded frames and actions up to a frame and predicts that frame's tokens. Its uncertainty is the
entropy of each token's distribution; its error is a token whose likeliest id is not the recorded one. AutoExplore's
entropy reward rests on the two going together.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from training.metrics import SampleTable

_ENTROPIES, _CHANGED_ENTROPIES = "calibration_entropies", "calibration_changed_entropies"
_CONFIDENCES, _FRAMES = "calibration_confidences", "calibration_frames"
# Entropies in nats are counted in bins of equal ratio: those of still scenery differ by powers of ten.
_LOWEST_ENTROPY = 1e-6
_NUM_ENTROPY_BINS = 512
_NUM_CONFIDENCE_BINS = 15


def update_calibration(table: SampleTable, indices: list[int], logits: Tensor, ids: Tensor) -> None:
    """Count, for clips with token ids (B, T, h, w), the entropies and errors of logits (B, T-1, h, w, V).

    Logits at t are the model's about frame t + 1.
    """
    log_probability = logits.float().log_softmax(dim=-1)
    entropy = -(log_probability.exp() * log_probability).sum(dim=-1)
    confidence, likeliest = log_probability.max(dim=-1)
    wrong = likeliest != ids[:, 1:]
    changed = ids[:, 1:] != ids[:, :-1]
    for b, index in enumerate(indices):
        entropies, everything = _bins_of_entropy(entropy[b], logits.shape[-1]), torch.ones_like(changed[b])
        for name, chosen in ((_ENTROPIES, everything), (_CHANGED_ENTROPIES, changed[b])):
            table.add(name, [index], _count_by_outcome(entropies[chosen], wrong[b][chosen])[None])
        table.add(_CONFIDENCES, [index], _sums_by_confidence(confidence[b].exp().flatten(), wrong[b].flatten())[None])
    frames = torch.stack([entropy.mean(dim=(2, 3)), wrong.float().mean(dim=(2, 3))], dim=-1)
    table.add(_FRAMES, indices, frames)


def compute_calibration(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Take what `update_calibration` stored out of `rows`: scores by name, {} if nothing is there.

    `calibration_auroc`: probability that a wrong token has a higher entropy than a right one; 0.5 = entropy says
    nothing. `calibration_changed_auroc`: the same among the tokens that differ from those of the frame before.
    `calibration_frame_spearman`: rank correlation, over frames, of mean entropy and share of wrong tokens.
    `calibration_ece`: expected calibration error (Guo et al. 2017), in 15 bins of equal width. A score that needs both
    right and wrong tokens is omitted where there is only one kind.
    """
    if _ENTROPIES not in rows:
        return {}
    entropies, changed, confidences = (rows.pop(name) for name in (_ENTROPIES, _CHANGED_ENTROPIES, _CONFIDENCES))
    frames = torch.from_numpy(rows.pop(_FRAMES)).reshape(-1, 2)
    count, confidence, right = confidences.astype(np.float64).sum(axis=0)
    scores = {
        "token_accuracy": float(right.sum() / count.sum()),
        "calibration_ece": float(np.abs(confidence - right).sum() / count.sum()),
        "calibration_auroc": _auroc(*entropies.sum(axis=0)),
        "calibration_changed_auroc": _auroc(*changed.sum(axis=0)),
    }
    if len(frames) > 1 and (frames.std(dim=0) > 0).all():
        scores["calibration_frame_spearman"] = float(spearman_corrcoef(frames[:, 0], frames[:, 1]))
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def _bins_of_entropy(entropy: Tensor, num_ids: int) -> Tensor:
    """The bin of each entropy; bins grow with entropy."""
    span = math.log(math.log(num_ids) / _LOWEST_ENTROPY)
    place = (entropy.clamp_min(_LOWEST_ENTROPY) / _LOWEST_ENTROPY).log() / span
    return (place * _NUM_ENTROPY_BINS).long().clamp(0, _NUM_ENTROPY_BINS - 1)


def _count_by_outcome(bins: Tensor, wrong: Tensor) -> Tensor:
    """Counts (2, bins) of right and of wrong tokens in each bin."""
    flat = bins.flatten() + _NUM_ENTROPY_BINS * wrong.flatten()
    return torch.bincount(flat, minlength=2 * _NUM_ENTROPY_BINS).reshape(2, -1)


def _sums_by_confidence(confidence: Tensor, wrong: Tensor) -> Tensor:
    """Sums (3, bins) over the tokens in each bin of confidence: of 1, of the confidence, and of being right."""
    bins = (confidence * _NUM_CONFIDENCE_BINS).long().clamp(0, _NUM_CONFIDENCE_BINS - 1)
    values = torch.stack([torch.ones_like(confidence), confidence, (~wrong).to(confidence)])
    return values.new_zeros(3, _NUM_CONFIDENCE_BINS).index_add_(1, bins, values)


def _auroc(right: np.ndarray, wrong: np.ndarray) -> float:
    """Probability that something wrong lies in a higher bin than something right, equal bins counting half; or NaN."""
    pairs = float(right.sum()) * float(wrong.sum())
    if pairs == 0:
        return math.nan
    below = np.cumsum(right) - right
    return float((wrong * (below + right / 2)).sum() / pairs)
