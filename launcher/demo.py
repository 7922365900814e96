"""`python run.py demo`: from nothing to images of a world model, by ordinary commands that it prints and runs."""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_generation.arguments import OneLineParser
from data_generation.data.errors import UserError
from launcher.main import launch

DATASET = "retro_act_v0.0.0_demo"
TOKENIZER_DPATH = Path("checkpoints/tokenizer/demo_tokenizer")
MODEL_DPATH = Path("checkpoints/genie_redux_guided/demo")
EVALUATION_DPATH = Path("outputs/evaluation/genie_redux_guided") / DATASET

_ABOUT = """\
A small world model of a game, from nothing: plays Cinderfoot, a free platformer, trains a tokenizer and a guided
world model on the recorded episodes, and lets the model predict. Takes about 10 minutes on two CPU cores. Everything
lands below the current folder. Run it again to resume where it stopped."""


@dataclass
class DemoStep:
    """One command of the demo; `arguments` is called when the commands before it are done."""

    title: str
    arguments: Callable[[], list[str]]


STEPS = (
    DemoStep("Play the game, record it", lambda: ["generate", "config=retro_act/demo"]),
    DemoStep("Train the tokenizer", lambda: ["genie_redux", "train", "config=demo_tokenizer"]),
    DemoStep(
        "Train the world model on its tokens",
        lambda: ["genie_redux", "train", "config=demo", f"tokenizer_fpath={_newest(TOKENIZER_DPATH)}"],
    ),
    DemoStep(
        "Predict recorded play, with rollout videos of 100 frames",
        lambda: [
            *("genie_redux", "eval", "config=demo", f"eval.model_fpath={_newest(MODEL_DPATH)}"),
            *("eval.drift_frames=100", "eval.n_drift_clips=8"),
            'eval.position=["(x-camera_x-8)*64/240","y*64/240"]',
        ],
    ),
    DemoStep(
        "Steer: hold one action",
        lambda: [
            *("genie_redux", "eval", "config=demo", f"eval.model_fpath={_newest(MODEL_DPATH)}"),
            "eval.action_to_take=0",
        ],
    ),
)


def main(argv: list[str], run: Callable[[Sequence[str]], int] = launch) -> int:
    """Run all steps with `run`; stops at the first that fails and returns its exit code."""
    OneLineParser(prog="python run.py demo", description=_ABOUT).parse_args(argv)
    print(_ABOUT)
    seconds: list[float] = []
    for number, step in enumerate(STEPS, start=1):
        arguments = step.arguments()
        print(f"\n[{number}/{len(STEPS)}] {step.title}\n$ python run.py {shlex.join(arguments)}", flush=True)
        start = time.perf_counter()
        exit_code = run(arguments)
        seconds.append(time.perf_counter() - start)
        if exit_code:
            print(f"\nStep {number} did not finish (see above). Run the demo again to resume there.")
            return exit_code
    print("\n".join(["", *_times(seconds), "", *_where_to_look()]))
    return 0


def _newest(run_dpath: Path) -> Path:
    """The run's checkpoint with the most steps."""
    # Imported here: torch is slow to import, and the first steps do not need it.
    from training.run_folder import RunFolder

    folder = RunFolder(run_dpath)
    steps = folder.steps()
    if not steps:
        raise UserError(f"no checkpoint in {run_dpath}: remove that folder and run the demo again")
    return folder.checkpoint(steps[-1])


def _times(seconds: Sequence[float]) -> Iterator[str]:
    width = max(len(step.title) for step in STEPS)
    for step, duration in zip(STEPS, seconds, strict=True):
        yield f"  {step.title:<{width}}  {duration:6.0f} s"
    yield f"  {'Total':<{width}}  {sum(seconds):6.0f} s"


def _where_to_look() -> Iterator[str]:
    yield "Where to look:"
    samples = sorted(TOKENIZER_DPATH.glob("samples/step-*.png"), key=lambda path: path.stat().st_mtime)
    for path in samples[-1:]:
        yield f"  {path}  (frames of the game over the tokenizer's reconstructions)"
    for folder in sorted(path.parent for path in EVALUATION_DPATH.glob("*/metrics.json")):
        about = "the game over the model's prediction" if "replicate" in folder.name else "the model, one action held"
        yield f"  {folder / 'strips.png'}  ({about})"
        films = sorted(folder.glob("film-*.gif"))[:1]
        for path in films:
            yield f"  {path}  (100 frames of play: the game, and the model under the same actions)"
        for path in [*([] if films else sorted(folder.glob("clip-*.gif"))[:1]), folder / "metrics.json"]:
            yield f"  {path}"
