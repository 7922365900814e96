"""Configuration of `python run.py play`. Every default is stated here and nowhere else."""

from dataclasses import dataclass, field
from typing import Annotated

from data_generation.data.fields import CountOrZero, ModelPath, NumFrames, PathText, Positive, Range


@dataclass
class PlayConfig:
    model_fpath: ModelPath | None = None  # world model (…/model-<step>.pt); null = the one in weights/
    tokenizer_fpath: ModelPath | None = None  # null = tokenizer.pt next to the model
    # A super_resolution model, which upsamples the frames that are shown.
    super_resolution_fpath: ModelPath | None = None
    # Checkpoint of an AutoExplore or Agent57 agent, to which a player can hand over.
    agent_fpath: ModelPath | None = None
    datasets_dpath: PathText = "data_generation/datasets"  # folder of datasets: to start from, and to look at
    runs_dpath: PathText = "checkpoints"  # folder of training and AutoExplore runs to look at
    evaluations_dpath: PathText = "outputs/evaluation"  # folder of evaluations to look at
    browser_dpath: PathText | None = None  # a page of `export`, which is offered as "play in this browser"
    record_dpath: PathText | None = None  # folder of datasets in which visitors may keep what they play; null = nobody
    # The game that is played beside the model, where no dataset says which; it needs no dataset if it is here.
    game: str = "Cinderfoot-Nes"
    fps: Annotated[float, Range(1, 120)] = 15.0  # frames per second while a key is held; real time is 60 / frame skip
    idle_action: str = ""  # what is done while no key is held; "" = NOOP or UP if there is one, else the world waits
    num_prime: NumFrames = 4  # frames of a recorded episode, or of the game, that a start gives the model
    window: NumFrames | None = None  # frames of history; null = as many as the model takes
    rewind_frames: Annotated[int, Range(1, 10_000)] = 600  # frames of each visitor that are kept to go back to
    num_threads: CountOrZero = 1  # of PyTorch: more make the steps of small models slower; 0 = its own choice
    host: str = "127.0.0.1"  # any other than a loopback address makes the page ask for a token
    port: Annotated[int, Range(0, 65_535)] = 8000  # 0 = any free one
    token: str | None = None  # what the page's address must hold; null = a fresh one where a token is needed
    max_visitors: Annotated[int, Range(1, 64)] = 4  # who plays at the same time; others are asked to wait
    idle_seconds: Positive = 60.0  # without a message, after which a visitor's place is given to whoever waits for one
    resume_seconds: Positive = 30.0  # for which a game is kept after its connection was lost
    max_messages_per_second: Annotated[int, Range(1, 1000)] = 300  # of one visitor; who sends more is disconnected


@dataclass
class PlayRootConfig:
    """Root of the `play` command."""

    play: PlayConfig = field(default_factory=PlayConfig)
