"""How many MaskGIT rounds, and in which order of unmasking, does a world model need? Nothing is trained.

python -m benchmarks.quality.rounds checkpoints/genie_redux_guided/demo/model-5000.pt --dataset retro_act_v0.0.0_demo

Each checkpoint continues the same clips by one_go in every number of rounds and every order, and by autoregressive
sampling with `dream_length` 1, where rounds change nothing. Prints pooled PSNR, ΔPSNR and CPU seconds of the sampling.
"""

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.command_line import make_parser, positive_number, read_count, run_command
from benchmarks.quality.clips import SPLITS, chosen_clips
from data_generation.arguments import read_path, whole_number
from models.base import Rollout
from models.checkpoint import load_world_model
from models.components.maskgit import UNMASK_ORDERS
from models.config import SampleSettings
from models.genie_redux import GenieRedux
from training.clips import Clips
from training.config import EvalConfig
from training.metrics import SampleTable, averages, psnr_per_frame, squared_error_per_frame
from training.rollout import clip_generators, random_actions

SEED = 0
HEAD = "| checkpoint | method | order | rounds | pooled PSNR | ΔPSNR | CPU s |\n" + "| --- " * 3 + "| --: " * 4 + "|"


@dataclass(frozen=True)
class Sampling:
    """A way of sampling frames; `order` is `dynamics.unmask_order`."""

    method: str
    order: str
    rounds: int

    def rollout(self, config: EvalConfig, temperature: float | None) -> Rollout:
        """Of the config's prime and predicted frames."""
        settings = SampleSettings(self.method, self.rounds, dream_length=1, temperature=temperature)
        return Rollout(config.num_first_frames, config.sample_num_frames, settings)


def samplings(orders: list[str], rounds: list[int]) -> Iterator[Sampling]:
    """Autoregressive, then one_go in all orders; a single round has no order."""
    yield Sampling("autoregressive", orders[0], 1)
    if 1 in rounds:
        yield Sampling("one_go", orders[0], 1)
    for order, number in itertools.product(orders, rounds):
        if number > 1:
            yield Sampling("one_go", order, number)


@torch.no_grad()
def measure(model: GenieRedux, clips: list[Clips], rollout: Rollout, horizon: int) -> dict[str, float]:
    """Pooled PSNR and ΔPSNR in dB, and the CPU seconds that sampling under the recorded actions takes."""
    table, seconds = SampleTable(), 0.0
    for batch in clips:

        def continued(actions: Tensor, batch: Clips = batch) -> Tensor:
            generators = clip_generators(SEED, batch.indices, batch.video.device)
            return model.continue_clips(batch.video, actions, rollout, generators).frames

        conditioning = model.conditioning_actions(batch.video, batch.actions)
        target = batch.video[:, rollout.num_prime :]
        before = time.process_time()
        frames = continued(conditioning)
        seconds += time.process_time() - before
        drawn = random_actions(conditioning, model.num_actions, rollout, SEED, batch.indices)
        difference = psnr_per_frame(frames, target) - psnr_per_frame(continued(drawn), target)
        table.add("mse", batch.indices, squared_error_per_frame(frames, target))
        table.add("delta_psnr", batch.indices, difference[:, horizon - 1])
    return {**averages(table.gather()), "seconds": seconds}


def run(argv: Sequence[str]) -> None:
    """Print a row for each checkpoint and way of sampling, as soon as it is measured."""
    parser = make_parser("quality.rounds", __doc__)
    parser.add_argument("checkpoints", nargs="+", type=read_path, help="world models that take the recorded actions")
    parser.add_argument("--datasets", type=read_path, default=Path(EvalConfig().dataset_root_dpath))
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split", default="validation", choices=SPLITS)
    parser.add_argument("--clips", type=read_count, default=64)
    parser.add_argument("--rounds", nargs="+", type=whole_number(10_000), default=[1, 2, 4, 8, 25])
    parser.add_argument("--orders", nargs="+", default=list(UNMASK_ORDERS), choices=UNMASK_ORDERS)
    parser.add_argument("--temperature", type=positive_number, help="of the first round; the model's by default")
    args = parser.parse_args(argv)
    config = EvalConfig(num_frames=8, sample_num_frames=6, batch_size=16)
    clips = chosen_clips(args, config.num_frames, config.batch_size)
    print(HEAD)
    for path in args.checkpoints:
        model = load_world_model(path).model
        for sampling in samplings(args.orders, args.rounds):
            model.dynamics.config.unmask_order = sampling.order
            rollout = sampling.rollout(config, args.temperature)
            found = measure(model, clips, rollout, config.delta_psnr_horizon)
            values = f"{found['pooled_psnr']:.2f} | {found['delta_psnr']:.2f} | {found['seconds']:.1f}"
            rounds = sampling.rounds if sampling.method == "one_go" else "any"
            print(f"| {path} | {sampling.method} | {sampling.order} | {rounds} | {values} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run_command(run))
