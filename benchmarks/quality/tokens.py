"""Three claims of the paper (arXiv 2504.02515, section 5) about tokens, measured on trained models.

python -m benchmarks.quality.tokens checkpoints/genie_redux_guided/demo/model-5000.pt --dataset retro_act_v0.0.0_demo

- Codes that are near to each other look alike: pooled PSNR in dB of the tokenizer's frames, of the same frames with
  every id replaced by its nearest code (by cosine), by a random one, and by the farthest. Codes that no frame uses are
  left out.
- One code stands for what does not move: the share of the commonest id, and of ids that stay, in patches whose pixels
  are equal to those of the frame before.
- The model is uncertain where something moves: mean entropy in nats of the next frame's tokens, given recorded frames,
  in patches that change and in others; the probability that a patch which changes has the higher entropy (AUROC).
  And where it errs: the share of wrong tokens in either.

Nothing is trained. Prints a Markdown table with a column for each checkpoint.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from benchmarks.command_line import make_parser, read_count, run_command
from benchmarks.quality.clips import SPLITS, chosen_clips
from data_generation.arguments import read_path
from data_generation.data.markdown import markdown_table
from models.checkpoint import load_world_model
from models.genie_redux import GenieRedux
from models.tokenizer import Tokenizer
from training.config import EvalConfig

SEED = 0
NUM_FRAMES = 8  # of a clip


def changed_patches(video: Tensor, patch_size: int) -> Tensor:
    """Which patches (B, T-1, h, w) of frames (B, T, C, H, W) differ from those of the frame before."""
    differs = (video[:, 1:] != video[:, :-1]).any(dim=2)
    return rearrange(differs, "b t (h p) (w q) -> b t h w (p q)", p=patch_size, q=patch_size).any(dim=-1)


def code_orders(tokenizer: Tokenizer, used: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """For each used id (U,), the index in `used` of the one that takes its place."""
    codes = F.normalize(tokenizer.quantizer.directions.float()[used], dim=-1)
    similarity = codes @ codes.T
    others = similarity.clone().fill_diagonal_(float("-inf"))
    drawn = (torch.arange(len(used)) + torch.randint(1, len(used), (len(used),), generator=generator)) % len(used)
    return {"nearest": others.argmax(dim=-1), "random": drawn, "farthest": similarity.argmin(dim=-1)}


def pooled_psnr(frames: Tensor, video: Tensor) -> float:
    """In dB, of frames in [0, 1], all pixels together."""
    return float(-10 * torch.log10(F.mse_loss(frames.float().clamp(0, 1), video)))


def code_distances(tokenizer: Tokenizer, video: Tensor, ids: Tensor) -> dict[str, float]:
    """Pooled PSNR of frames whose every id is replaced by another code."""
    used, place = ids.unique(return_inverse=True)
    found = {"pooled PSNR: the tokenizer's frames": pooled_psnr(tokenizer.decode(ids), video)}
    for name, order in code_orders(tokenizer, used, torch.Generator().manual_seed(SEED)).items():
        found[f"… each code replaced by the {name}"] = pooled_psnr(tokenizer.decode(used[order][place]), video)
    return found


def still_patches(ids: Tensor, changed: Tensor) -> dict[str, float]:
    """Shares of the commonest id and of ids that stay, among patches that do not change."""
    now, before = ids[:, 1:][~changed], ids[:, :-1][~changed]
    counts = now.bincount()
    return {
        "patches that do not change": float((~changed).float().mean()),
        "… of which the commonest code": float(counts.max() / counts.sum()),
        "… of which the ten commonest": float(counts.topk(min(10, len(counts))).values.sum() / counts.sum()),
        "… that keep their code": float((now == before).float().mean()),
    }


def uncertainty(logits: Tensor, ids: Tensor, changed: Tensor) -> dict[str, float]:
    """Entropy and errors of logits (B, T-1, h, w, V) where patches change and where not."""
    log_probability = logits.float().log_softmax(dim=-1)
    entropy = -(log_probability.exp() * log_probability).sum(dim=-1)
    wrong = (log_probability.argmax(dim=-1) != ids[:, 1:]).float()
    return {
        "entropy [nats], patches that change": float(entropy[changed].mean()),
        "… others": float(entropy[~changed].mean()),
        "AUROC of entropy for change": float(binary_auroc(entropy.flatten() / entropy.max(), changed.flatten().long())),
        "wrong tokens, patches that change": float(wrong[changed].mean()),
        "… others ": float(wrong[~changed].mean()),
    }


@torch.no_grad()
def measure(model: GenieRedux, video: Tensor, actions: Tensor) -> dict[str, float]:
    """All of the above for clips (B, T, C, H, W) and actions (B, T-1)."""
    changed = changed_patches(video, model.tokenizer.config.patch_size)
    logits, ids = model.predict_tokens(video, actions)
    return {
        **code_distances(model.tokenizer, video, ids),
        **still_patches(ids, changed),
        **uncertainty(logits, ids, changed),
    }


def run(argv: Sequence[str]) -> None:
    """Print the table."""
    parser = make_parser("quality.tokens", __doc__)
    parser.add_argument("checkpoints", nargs="+", type=read_path, help="world models that take the recorded actions")
    parser.add_argument("--datasets", type=read_path, default=Path(EvalConfig().dataset_root_dpath))
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split", default="validation", choices=SPLITS)
    parser.add_argument("--clips", type=read_count, default=128)
    args = parser.parse_args(argv)
    (clips,) = chosen_clips(args, NUM_FRAMES, args.clips)
    columns = [measure(load_world_model(path).model.eval(), clips.video, clips.actions) for path in args.checkpoints]
    body = [[name, *(f"{column[name]:.3f}" for column in columns)] for name in columns[0]]
    print(markdown_table(["", *(path.parent.name for path in args.checkpoints)], body))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run_command(run))
