"""Does a rollout last longer if the history keeps what the model was unsure of? Nothing is trained.

python -m benchmarks.quality.expected_tokens <model-N.pt …> --dataset retro_act_v0.0.0_one_level_seen

A drawn frame enters the history as the likeliest tokens: where the hero may be at one of several places, he is at none
of them, and the next frame cannot know. Here each token enters as the expectation of its embedding under the model's
distribution p, raised to an exponent: 0 stands for the likeliest token, 1 for p itself, larger ones for sharper
distributions. The frame that is shown is that of the likeliest tokens in every case.

Streams recorded clips' first two frames on under their actions, with the histories of `GenieRedux.step`. Prints pooled
PSNR in dB at some frames and over all, and the mean change of a pixel from frame to frame (of 255), next to the game's.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from data.data import ClipDataset
from models.checkpoint import load_world_model
from models.components.st_transformer import Cache
from models.genie_redux import GenieRedux
from models.streaming import num_kept
from training.clips import read_clips
from training.config import EvalConfig
from training.metrics import evenly_spaced

NUM_GIVEN = 2
SHOWN = (1, 3, 6, 10, 20, 30, 40, 60)


class ExpectedTokens:
    """Streams clips; histories are differences (B, T, h, w, D) from the likeliest tokens' embeddings."""

    def __init__(self, model: GenieRedux, exponent: float):
        self.model, self.exponent = model, exponent
        dynamics = model.dynamics
        ids = torch.arange(dynamics.codebook_size)[None, None, None]
        none = torch.zeros_like(ids, dtype=torch.bool)
        no_position, action = dynamics.position_embedding.weight.new_zeros(1), torch.zeros(1, 1, dtype=torch.int64)
        # The action's part is the same in all rows, and cancels.
        rows = dynamics.embed_at(ids, none, action, model.token_input(ids), no_position)
        self.embeddings = rows[0, 0, 0, :, : dynamics.config.dim]

    def _extend(self, ids: Tensor, extra: Tensor, actions: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        dynamics, none = self.model.dynamics, torch.zeros_like(ids, dtype=torch.bool)
        x = dynamics.embed(ids, none, actions, self.model.token_input(ids), start=cache.num_frames).clone()
        x[..., : extra.shape[-1]] += extra
        bias = dynamics.position_bias(dynamics.grid, dynamics.grid)
        x, cache = dynamics.transformer.extend(x, bias, cache)
        return dynamics.to_logits(x), cache

    def _extra(self, logits: Tensor, ids: Tensor) -> Tensor:
        if self.exponent == 0:
            return self.embeddings.new_zeros(*ids.shape, self.embeddings.shape[1])
        expected = torch.softmax(self.exponent * logits.float(), dim=-1) @ self.embeddings
        return expected - F.embedding(ids, self.embeddings)

    def stream(self, video: Tensor, actions: Tensor) -> Tensor:
        """The frames (B, T-2, C, H, W) after the first two of clips (B, T, C, H, W), under actions (B, T-1)."""
        tokenizer, window = self.model.tokenizer, self.model.dynamics.max_frames
        ids = tokenizer.encode(video[:, :NUM_GIVEN])
        extra = self.embeddings.new_zeros(*ids.shape, self.embeddings.shape[1])
        cache = self._extend(ids[:, :-1], extra[:, :-1], actions[:, : NUM_GIVEN - 1], Cache())[1]
        first, frames = 0, []
        for t in range(NUM_GIVEN - 1, actions.shape[1]):
            if ids.shape[1] - first >= window:
                first = ids.shape[1] - num_kept(window)
                kept = slice(first, -1)
                cache = self._extend(ids[:, kept], extra[:, kept], actions[:, first:t], Cache())[1]
            logits, cache = self._extend(ids[:, -1:], extra[:, -1:], actions[:, t : t + 1], cache)
            drawn = logits.argmax(dim=-1)
            extra = torch.cat([extra, self._extra(logits, drawn)], dim=1)
            ids = torch.cat([ids, drawn], dim=1)
            frames.append(drawn)
        return tokenizer.decode(torch.cat(frames, dim=1)).clamp(0, 1)


def row(name: str, frames: Tensor, target: Tensor) -> str:
    """A line of the table."""
    errors = (frames - target).square().flatten(2).mean(dim=2)
    shown = [errors[:, t - 1].mean() for t in SHOWN if t <= errors.shape[1]]
    values = [f"{float(-10 * torch.log10(error)):.1f}" for error in (*shown, errors.mean())]
    change = float((frames[:, 1:] - frames[:, :-1]).abs().mean() * 255)
    return f"| {name} | " + " | ".join([*values, f"{change:.2f}"]) + " |"


@torch.no_grad()
def main() -> None:
    """Print a table for each checkpoint."""
    defaults = EvalConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="guided; tokens of one frame alone")
    parser.add_argument("--datasets", type=Path, default=Path(defaults.dataset_root_dpath))
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--exponents", nargs="+", type=float, default=[0, 1, 2, 4])
    args = parser.parse_args()
    length = NUM_GIVEN + args.frames
    config = EvalConfig(num_frames=length, sample_num_frames=args.frames, batch_size=args.clips)
    dataset = ClipDataset(args.datasets / args.dataset, args.split, length, length, on_bad_episode="skip")
    indices = [int(i) for i in evenly_spaced(len(dataset), args.clips)]
    (clips,) = read_clips(dataset, indices, config, torch.device("cpu"))
    target = clips.video[:, NUM_GIVEN:]
    shown = [str(t) for t in SHOWN if t <= args.frames]
    head = (
        f"| exponent | {' | '.join(f'frame {t}' for t in shown)} | all | change |\n| --- |{' --: |' * (len(shown) + 2)}"
    )
    for path in args.checkpoints:
        print(f"\n{path}, {len(indices)} clips of {args.dataset}\n\n{head}")
        model = load_world_model(path).model.eval()
        for exponent in args.exponents:
            frames = ExpectedTokens(model, exponent).stream(clips.video, clips.actions)
            print(row(f"{exponent:g}", frames, target), flush=True)
        still = clips.video[:, NUM_GIVEN - 1 : NUM_GIVEN].expand_as(target)
        print(row("(still picture)", still, target))
        print(row("(the game)", target, target).replace("inf", "–"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
