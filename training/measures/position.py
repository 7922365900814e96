"""Where on the screen the character is: a small network that reads it off one frame, trained on the recorded play.

What is true comes from the numbers that the game reported with each step.
"""

import ast
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.data import ClipDataset, frames_first
from data_generation.data.errors import FieldError, UserError
from training.clips import frames_to_float
from training.measures.frame_reader import FrameReader, ReaderSettings, convolution, prepare_reader, training_clips
from training.runtime import Runtime

# Pixels of a side of a cell; a position is read to the nearest cell.
_CELL = 2
_WIDTHS = (16, 32, 32, 32)
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class PositionReader(FrameReader):
    """Logits of the cells of a frame in which the character may be.

    But for the normalization, a cell's logit depends on 19×19 pixels alone, so that the character has to be seen there
    and cannot be concluded from the scenery.
    """

    title = "reader of the character's position"
    version, clip_frames, clip_step, batch_clips = 1, 2, 1, 32

    def __init__(self, expressions: Sequence[str], channels: int = 3):
        super().__init__()
        self.expressions = list(expressions)
        layers: list[nn.Module] = []
        inputs = channels
        for width in _WIDTHS:
            layers += convolution(inputs, width, stride=1 if layers else _CELL)
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 3, padding=1))

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (N, h, w) of the cells of frames (N, C, H, W) in [0, 1]."""
        return self.layers(frames)[:, 0]

    def loss(self, clips: ClipDataset, indices: list[int]) -> Tensor:
        """Cross-entropy () of the cells in which the character is in the clips' last frames."""
        frames, positions = read_frames_and_positions(clips, indices, self.expressions)
        known = positions[:, -1].isfinite().all(dim=-1)
        logits = self(frames_to_float(frames[known, -1].to(self.device)))
        height, width = logits.shape[1:]
        cells = (positions[known, -1] / _CELL).long().to(self.device)
        columns, rows = cells[:, 0].clamp(0, width - 1), cells[:, 1].clamp(0, height - 1)
        # A batch may have no known position, and then no mean.
        return F.cross_entropy(logits.flatten(1), rows * width + columns, reduction="sum") / len(indices)


@torch.no_grad()
def shown_positions(network: PositionReader, video: Tensor) -> Tensor:
    """Positions (B, T, 2), x and y in pixels, that frames (B, T, C, H, W) show; the frames are clamped."""
    with torch.autocast(video.device.type, enabled=False):
        # Clip by clip, since a long batch's activations take gigabytes.
        logits = torch.stack([network(frames.float().clamp(0, 1)) for frames in video])
    cells, width = logits.flatten(2).argmax(dim=2).cpu(), logits.shape[3]
    return (torch.stack([cells % width, cells // width], dim=-1) + 0.5) * _CELL


@dataclass(frozen=True)
class CharacterPosition:
    """The character's position in the frames of `clips`: the game's own, and what `reader` reads off other frames."""

    reader: PositionReader
    clips: ClipDataset

    @property
    def tolerance(self) -> float:
        """Pixels up to which a position counts as right: 4 in frames of 64."""
        return max(self.clips.frame_shape[1:]) / 16

    def recorded(self, indices: list[int], num_last: int) -> Tensor:
        """Positions (B, `num_last`, 2) in the last frames of these clips; NaN where they are not known."""
        return read_frames_and_positions(self.clips, indices, self.reader.expressions)[1][:, -num_last:]

    def distances(self, frames: Tensor, positions: Tensor) -> Tensor:
        """Distances (B, T) in pixels from `positions` (B, T, 2) to those that frames (B, T, C, H, W) show."""
        return (shown_positions(self.reader, frames) - positions).norm(dim=-1)

    def scores(self, name: str, distances: np.ndarray, frames: Sequence[int]) -> dict[str, float]:
        """At each of the predicted `frames`, from 1: the share of right positions, and the median distance.

        `distances` (N, T): NaN is not counted, and a frame with nothing else is omitted.
        """
        scores = {}
        for frame in frames:
            known = distances[:, frame - 1][np.isfinite(distances[:, frame - 1])]
            if len(known):
                scores[f"{name}accuracy_{frame}"] = float(np.mean(known <= self.tolerance))
                scores[f"{name}error_{frame}"] = float(np.median(known))
        return scores


def prepare_position(
    expressions: Sequence[str], settings: ReaderSettings, clips: ClipDataset, runtime: Runtime
) -> tuple[CharacterPosition | None, str]:
    """The character's position in clips, or None and one line that says why it is not measured.

    FieldError of `position` where the expressions name numbers that the dataset does not record. Call it on every
    process.
    """
    try:
        training = training_clips(PositionReader, clips)
    except UserError as error:
        return None, f"no position of the character: {error}"
    reader = PositionReader(expressions, clips.frame_shape[0])
    reader = prepare_reader(reader, training, " ".join(expressions), settings, runtime)
    return CharacterPosition(reader, clips), ""


def check_position(expressions: Sequence[str], clips: ClipDataset) -> None:
    """FieldError of `position` unless each environment's first clip has the numbers of both expressions."""
    if len(expressions) != 2:
        raise FieldError("position", list(expressions), "is not the character's x and y", "give two expressions")
    first = np.cumsum([0, *clips.clips_per_env[:-1]]).tolist()
    read_frames_and_positions(clips, first, expressions)


def read_frames_and_positions(
    clips: ClipDataset, indices: list[int], expressions: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Frames (B, T, C, H, W) uint8 of these clips, and positions (B, T-1, 2) in all but the first of them.

    NaN where a clip of another episode replaces a damaged one.
    """
    rows, starts = clips.locate(indices)
    frames, actions = clips.empty_clips(len(rows))
    positions = np.full((*actions.shape, 2), np.nan, np.float32)
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        if clips.read_clip(row, start, frames[i], actions[i]):
            environment, episode = clips.episode_of(row)
            with environment.open(episode) as reader:
                # The numbers of step t belong to frame t + 1.
                steps = {name: values[start : start + clips.num_frames - 1] for name, values in reader.infos.items()}
            for axis, text in enumerate(expressions):
                positions[i, :, axis] = _value(text, steps, expressions)
    return frames_first(frames), torch.from_numpy(positions)


def _value(text: str, numbers: Mapping[str, np.ndarray], expressions: Sequence[str]) -> np.ndarray:
    """Values (T,) of an expression; FieldError of `position` where it has none."""
    try:
        with np.errstate(all="ignore"):
            return np.asarray(_evaluate(ast.parse(text, mode="eval").body, numbers))
    except KeyError as error:
        problem = f"the dataset records no number {error} (there: {', '.join(sorted(numbers)) or 'none'})"
        remedy = "name numbers that are there, or set {position}=[]"
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        problem = f"'{text}' is not arithmetic of names and numbers"
        remedy = "use + - * / and parentheses"
    raise FieldError("position", list(expressions), problem, remedy)


def _evaluate(node: ast.expr, numbers: Mapping[str, np.ndarray]) -> np.ndarray | float:
    match node:
        case ast.Name(id=name):
            return numbers[name]
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, numbers)
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _OPERATORS:
            return _OPERATORS[type(kind)](_evaluate(left, numbers), _evaluate(right, numbers))
        case _:
            raise ValueError(ast.dump(node))
