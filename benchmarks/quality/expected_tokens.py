"""Does a rollout last longer if the history keeps what the model was unsure of? Nothing is trained.

python -m benchmarks.quality.expected_tokens <model-N.pt …> \\
    --datasets outputs/quality/datasets --dataset retro_act_v0.0.0_one_level_seen

A predicted frame enters the history as the likeliest tokens: where the character may be at one of several places, it is
at none of them, and the next frame cannot know. With `dynamics.history_tokens=expected` each token enters as the
expectation of its embedding under the model's distribution p; here p is raised to an exponent: 1 is that setting, 0
stands for the likeliest token, and larger ones for sharper distributions. The frame that is shown is always that of the
likeliest tokens.

Streams recorded clips' first two frames on under their actions, with the histories of `GenieRedux.step`. Prints pooled
PSNR in dB at some frames and over all, and the mean change of a pixel from frame to frame (of 255), next to the game's.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.command_line import make_parser, read_count, run_command
from benchmarks.quality.clips import SPLITS, chosen_clips
from data_generation.arguments import read_path
from data_generation.data.markdown import markdown_table
from models.checkpoint import load_world_model
from models.genie_redux import GenieRedux
from training.config import EvalConfig

NUM_GIVEN = 2
SHOWN = (1, 3, 6, 10, 20, 30, 40, 60)


def stream(model: GenieRedux, video: Tensor, actions: Tensor, exponent: float) -> Tensor:
    """The frames (B, T-2, C, H, W) after the first two of clips (B, T, C, H, W), under actions (B, T-1)."""
    model.dynamics.config.history_tokens = "expected" if exponent else "likeliest"
    given = model.history_surplus

    def sharper(logits: Tensor, ids: Tensor) -> Tensor | None:
        return given(exponent * logits, ids)

    with patch.object(model, "history_surplus", sharper):
        state, frames = model.start(video[:, :NUM_GIVEN], actions[:, : NUM_GIVEN - 1]), []
        for t in range(NUM_GIVEN - 1, actions.shape[1]):
            frame, state = model.step(state, actions[:, t])
            frames.append(frame)
    return torch.stack(frames, dim=1).clamp(0, 1)


def row(name: str, frames: Tensor, target: Tensor) -> list[str]:
    """Of the table."""
    errors = (frames - target).square().flatten(2).mean(dim=2)
    shown = [errors[:, t - 1].mean() for t in SHOWN if t <= errors.shape[1]]
    values = [f"{float(-10 * torch.log10(error)):.1f}" for error in (*shown, errors.mean())]
    change = float((frames[:, 1:] - frames[:, :-1]).abs().mean() * 255)
    return [name, *values, f"{change:.2f}"]


@torch.no_grad()
def run(argv: Sequence[str]) -> None:
    """Print a table for each checkpoint."""
    parser = make_parser("quality.expected_tokens", __doc__)
    parser.add_argument("checkpoints", nargs="+", type=read_path, help="world models that take the recorded actions")
    parser.add_argument("--datasets", type=read_path, default=Path(EvalConfig().dataset_root_dpath))
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split", default="validation", choices=SPLITS)
    parser.add_argument("--clips", type=read_count, default=32)
    parser.add_argument("--frames", type=read_count, default=60)
    parser.add_argument("--exponents", nargs="+", type=float, default=[0, 1, 2, 4])
    args = parser.parse_args(argv)
    length = NUM_GIVEN + args.frames
    (clips,) = chosen_clips(args, length, args.clips)
    target = clips.video[:, NUM_GIVEN:]
    head = ["exponent", *(f"frame {t}" for t in SHOWN if t <= args.frames), "all", "change"]
    for path in args.checkpoints:
        model = load_world_model(path).model.eval()
        body = [row(f"{e:g}", stream(model, clips.video, clips.actions, e), target) for e in args.exponents]
        body.append(row("(copy-last baseline)", clips.video[:, NUM_GIVEN - 1 : NUM_GIVEN].expand_as(target), target))
        body.append([cell.replace("inf", "–") for cell in row("(the game)", target, target)])
        print(f"\n{path}, {len(clips.indices)} clips of {args.dataset}\n\n{markdown_table(head, body)}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run_command(run))
