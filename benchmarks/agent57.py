"""Speed of Agent57: environment steps of its actors, updates of its learner, and what each consists of.

    python -m benchmarks.agent57                          # config=cinderfoot, 1, 2, 4 and 8 actors, in some minutes
    python -m benchmarks.agent57 --preset full --actors 2 --repeats 3

Networks have fresh weights, whose speed is that of trained ones. Seconds of the clock say what a run takes on this
machine now, CPU-seconds (of this process; emulators are in others) what it costs on an idle one.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.command_line import make_parser, read_count, run_command
from benchmarks.presets import composed
from data_generation.data.cores import num_cores
from data_generation.data.data import EpisodeMeta
from data_generation.generator.levels import Transition
from external.agent57.checkpoint import Agent57Info
from external.agent57.config import Agent57Config, Agent57TrainingConfig
from external.agent57.learner import Agent57Learner
from external.agent57.networks import AgentNetworks
from external.agent57.replay import PlayedEpisode, ReplaySequence, SequenceReplay, new_starts
from external.agent57.setup import make_actors, make_context
from external.agent57.view import VIEW_SHAPE


def config_of(preset: str) -> Agent57Config:
    config: Agent57Config = composed("agent57 train", f"config={preset}", "common.device=cpu")
    return config


def networks_of(config: Agent57TrainingConfig, num_actions: int) -> AgentNetworks:
    torch.manual_seed(0)
    return Agent57Info([""] * num_actions, num_actions, config.network, config.family).build()


def actors_case(config: Agent57Config, num_envs: int, num_steps: int) -> None:
    """Steps per second, and the shares of the policy, the intrinsic reward and the wait for the emulators."""
    config.collection.train.num_envs = num_envs
    context = make_context(config.common, config.collection)
    networks = networks_of(config.training, len(context.connector.action_names)).requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        actors = make_actors(context, networks, config.training, Path(folder), is_test=False)
        try:
            rng = np.random.default_rng(0)
            actors.start(rng)
            actors.play(rng, lambda played: played.num_steps >= 8 * num_envs)
            clock, processor = time.perf_counter(), time.process_time()
            played = actors.play(rng, lambda played: played.num_steps >= num_steps)
            clock, processor = time.perf_counter() - clock, time.process_time() - processor
        finally:
            actors.close()
    shares = ", ".join(f"{name} {seconds / clock:.0%}" for name, seconds in played.seconds.items())
    rates = f"{played.num_steps / clock:7.0f} steps/s  {played.num_steps / processor:7.0f} per CPU-second"
    print(f"{num_envs:3} actors  {rates}  ({shares})", flush=True)


def episode_of(config: Agent57TrainingConfig, num_steps: int) -> PlayedEpisode:
    """An episode of noise."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (num_steps + 1, *VIEW_SHAPE), np.uint8)
    episode = PlayedEpisode(Path("nowhere"), EpisodeMeta(), frames[0], policy=0)
    for t in range(num_steps):
        episode.keep_state(np.zeros((4, config.network.lstm), np.float32), config.replay)
        episode.add(Transition(0, frames[t + 1], 1.0, False, t == num_steps - 1, {}), 1.0, 0.5)
    return episode


def learner_case(config: Agent57TrainingConfig, amp_dtype: torch.dtype | None, repeats: int) -> None:
    """Updates per second, drawing the batch included."""
    learner, replay = Agent57Learner(networks_of(config, 5), config, amp_dtype), SequenceReplay(config.replay)
    episode = episode_of(config, 4 * config.replay.sequence)
    for start in new_starts(0, episode, config.replay):
        replay.add(ReplaySequence(episode, start))
    rng = np.random.default_rng(0)

    def update() -> None:
        batch = replay.sample(config.learner.batch_size, rng)
        priorities, _ = learner.update(batch)
        replay.set_priorities(batch.slots, priorities.numpy())

    update()
    clock, processor = _seconds(update, time.perf_counter, repeats), _seconds(update, time.process_time, repeats)
    size = f"{config.learner.batch_size} × {config.replay.burn_in} + {config.replay.sequence} steps"
    precision = "float32" if amp_dtype is None else "bf16"
    print(f"update of {size}, {precision}: {clock:.2f} s, {processor:.2f} CPU-seconds", flush=True)


def _seconds(run: Callable[[], None], clock: Callable[[], float], repeats: int) -> float:
    """Median duration."""
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return float(np.median(times))


def run(argv: Sequence[str]) -> None:
    parser = make_parser("agent57", __doc__)
    parser.add_argument("--preset", default="cinderfoot")
    parser.add_argument("--actors", type=read_count, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=read_count, default=2000)
    parser.add_argument("--repeats", type=read_count, default=5)
    arguments = parser.parse_args(argv)
    print(f"{num_cores()} cores, {torch.get_num_threads()} threads of torch")
    for amp_dtype in (None, torch.bfloat16):
        learner_case(config_of(arguments.preset).training, amp_dtype, arguments.repeats)
    for num_envs in arguments.actors:
        actors_case(config_of(arguments.preset), num_envs, arguments.steps)


if __name__ == "__main__":
    sys.exit(run_command(run))
