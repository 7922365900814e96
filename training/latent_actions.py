"""How well latent actions, which a model learns without labels, predict the recorded ones."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.metrics import SampleTable

LATENT, RECORDED_ACTIONS = "actions_latent", "actions_recorded"  # names in a SampleTable
_SHUFFLES = 20
# Of the probe's weights; keeps them finite where the classes can be separated perfectly.
_SHRINKAGE = 1e-5


def update_action_scores(table: SampleTable, indices: list[int], latent: Tensor, actions: Tensor) -> None:
    """Store latent action ids (B, T-1) next to the recorded ones (B, T-1)."""
    table.add(LATENT, indices, latent)
    table.add(RECORDED_ACTIONS, indices, actions)


def compute_action_scores(rows: dict[str, np.ndarray], codes: Tensor | None) -> tuple[dict[str, float], str]:
    """Take the actions that `update_action_scores` stored out of `rows`: their scores, or why there are none.

    `codes` (K, d): the vectors of the latent actions, None for a model without.
    """
    latent, recorded = rows.pop(LATENT, None), rows.pop(RECORDED_ACTIONS, None)
    if latent is None or recorded is None or codes is None:
        return {}, ""
    if len(latent) < 2 or np.ptp(recorded) == 0:
        return {}, "no scores of latent actions: they need two clips and two different recorded actions"
    return score_latent_actions(latent, recorded, codes.detach().float().cpu().numpy()), ""


def score_latent_actions(latent: np.ndarray, recorded: np.ndarray, codes: np.ndarray) -> dict[str, float]:
    """Scores by name of latent ids (N, T-1) against recorded ids (N, T-1) of two or more clips.

    Use of the codes; normalised mutual information, and what it is between clips that do not belong together; accuracy
    of linear probes from the latent id and from its vector in codes (K, d), trained on every other clip and measured
    on the rest, and of always naming the commonest action.
    """
    count, num_codes, num_actions = len(latent), len(codes), int(recorded.max()) + 1
    share = np.bincount(latent.ravel(), minlength=num_codes) / latent.size
    rng = np.random.default_rng(0)
    chance = [normalised_mutual_information(latent, recorded[_derangement(count, rng)]) for _ in range(_SHUFFLES)]
    train, test = (_contingency(latent[i::2], recorded[i::2], (num_codes, num_actions)) for i in (0, 1))
    return {
        "latent_perplexity": float(np.exp(_entropy(share))),
        "latent_used": float((share > 0).mean()),
        "latent_nmi": normalised_mutual_information(latent, recorded),
        "latent_nmi_chance": float(np.mean(chance)),
        "latent_probe_id_accuracy": probe_accuracy(np.eye(num_codes), train, test),
        "latent_probe_code_accuracy": probe_accuracy(codes, train, test),
        "latent_probe_majority_accuracy": float(test[:, train.sum(axis=0).argmax()].sum() / test.sum()),
    }


def normalised_mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """2 I(a; b) / (H(a) + H(b)) of two arrays of ids of one shape: 1 = each tells the other, 0 = independent.

    0 where one of them is constant. Independent ids give a little more than 0, the more so the fewer they are.
    """
    joint = _contingency(first, second, (int(first.max()) + 1, int(second.max()) + 1)) / first.size
    entropies = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    if min(entropies) <= 0:
        return 0.0
    return max(0.0, 2 * (sum(entropies) - _entropy(joint)) / sum(entropies))


def probe_accuracy(features: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Accuracy of multinomial logistic regression from a latent action to the recorded one.

    features (K, d): a latent action's vector. train, test (K, A): how often latent k goes with action a. All that
    the regression's loss needs is these counts, so it costs the same for any number of clips.
    """
    share = torch.from_numpy(train / train.sum())
    inputs = torch.from_numpy(np.asarray(features, np.float64))
    inputs = (inputs - inputs.mean(dim=0)) / inputs.std(dim=0, correction=0).clamp_min(1e-8)
    weight = torch.zeros(inputs.shape[1], train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(train.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_probability = F.log_softmax(inputs @ weight + bias, dim=-1)
        value = -(share * log_probability).sum() + _SHRINKAGE * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    predicted = (inputs @ weight + bias).argmax(dim=-1).numpy()
    return float(test[np.arange(len(test)), predicted].sum() / test.sum())


def _derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random order of two or more items in which none stays where it was."""
    order = rng.permutation(count)
    shuffled = np.empty(count, np.int64)
    shuffled[order] = np.roll(order, int(rng.integers(1, count)))
    return shuffled


def _contingency(first: np.ndarray, second: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often each pair of ids occurs."""
    pairs = np.ravel_multi_index((first.ravel(), second.ravel()), shape)
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def _entropy(probability: np.ndarray) -> float:
    """In nats, of probabilities that sum to 1."""
    positive = probability[probability > 0]
    return float(-(positive * np.log(positive)).sum()) + 0.0
