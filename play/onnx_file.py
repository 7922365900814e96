"""The step as an ONNX file, and how well that file does what PyTorch does."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_generation.data.errors import UserError
from play.static_shape_step import PREDICT, RolloutState, StaticShapeStep

OPSET = 20
PRECISIONS = ("float32", "float16")
# Weights below this many values stay as they are: biases, scales and shapes.
_MIN_VALUES = 256

Runner = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def input_names(step: StaticShapeStep) -> list[str]:
    """The file's inputs, in the order of `StaticShapeStep.forward`."""
    return ["action", "known", *RolloutState._fields, *(["noise"] if step.temperature else [])]


def output_names() -> list[str]:
    """The file's outputs, in the order of `StaticShapeStep.forward`; next_<name> is what <name> is in the next step."""
    return ["pixels", *(f"next_{name}" for name in RolloutState._fields)]


def first_inputs(step: StaticShapeStep) -> dict[str, Tensor]:
    """Inputs of the first step after nothing."""
    shape = (1, step.grid, step.grid)
    inputs = {"action": torch.zeros(1, dtype=torch.int32), "known": torch.full(shape, PREDICT, dtype=torch.int32)}
    inputs |= step.start()._asdict()
    if step.temperature:
        inputs["noise"] = torch.zeros(*shape, step.model.dynamics.codebook_size)
    return inputs


def write_onnx(step: StaticShapeStep, path: Path, precision: str) -> None:
    """Write the step. The weights are stored in `precision` and computed with in float32."""
    _need_onnx()
    import onnx

    arguments = tuple(first_inputs(step).values())
    # The exporter warns of packages that nothing here uses, and of itself.
    for name in ("torch.onnx", "onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            step.eval(),
            arguments,
            input_names=input_names(step),
            output_names=output_names(),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for initializer in _unused(model):
        model.graph.initializer.remove(initializer)
    if precision == "float16":
        _halve_weights(model)
    onnx.save(model, path)


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"writing ONNX files needs the package {error.name}: bash install.sh --with export") from None


def _unused(model: Any) -> list[Any]:
    used = {name for node in model.graph.node for name in node.input}
    return [initializer for initializer in model.graph.initializer if initializer.name not in used]


def _halve_weights(model: Any) -> None:
    """Store the weights as float16 and turn them into float32 when the model is loaded, since WASM computes in that."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for initializer in model.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or np.prod(initializer.dims) < _MIN_VALUES:
            continue
        name = initializer.name
        half = numpy_helper.from_array(numpy_helper.to_array(initializer).astype(np.float16), f"{name}_float16")
        initializer.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)


# ---- running --------------------------------------------------------------------------------------------------------


def onnx_runner(path: Path) -> Runner:
    """The file as a function of named arrays, on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(output_names(), session.run(output_names(), inputs), strict=True))


def torch_runner(step: StaticShapeStep) -> Runner:
    """The step in PyTorch, as a function of the same arrays."""

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = step(*(torch.from_numpy(inputs[name]) for name in input_names(step)))
        return dict(zip(output_names(), (output.numpy() for output in outputs), strict=True))

    return run


class OnnxPlayer:
    """A game with a runner: keeps the state, as the page does."""

    def __init__(self, step: StaticShapeStep, run: Runner):
        self._run, self._grid = run, step.grid
        self._inputs = {name: tensor.numpy() for name, tensor in first_inputs(step).items()}
        self._first_num_frames = self._inputs["num_frames"]

    def begin(self, ids: Sequence[Sequence[int]], actions: Sequence[int]) -> None:
        """Start anew with frames of ids (P, hw) and the actions (P-1,) between them."""
        # Slots of no frame may hold anything, so the caches stay.
        self._inputs["num_frames"] = self._first_num_frames
        for frame, action in zip(ids, [0, *actions], strict=True):
            self._append(action, np.array(frame, np.int32).reshape(1, self._grid, self._grid))

    def step(self, action: int, noise: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The next frame's ids (h, w) and pixels (H, W, 4). noise (1, h, w, V)."""
        if noise is not None:
            self._inputs["noise"] = noise
        outputs = self._append(action, np.full((1, self._grid, self._grid), PREDICT, np.int32))
        return outputs["next_ids"][0], outputs["pixels"][0]

    def _append(self, action: int, known: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self._run({**self._inputs, "action": np.array([action], np.int32), "known": known})
        self._inputs |= {name: outputs[f"next_{name}"] for name in RolloutState._fields}
        return outputs


def compare(step: StaticShapeStep, path: Path, start: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """How far a file agrees with PyTorch after a start of the page, both under the same actions, drawn from a seed.

    `equal_steps`: steps before the first one with a different token. `equal_tokens`: their share over all steps; after
    a difference, each continues from its own frames. `pixel_difference`: the largest in the equal steps, of 255.
    """
    rng = np.random.default_rng(0)
    players = [OnnxPlayer(step, run) for run in (torch_runner(step), onnx_runner(path))]
    for player in players:
        player.begin(start["ids"], start["actions"])
    shape = (1, step.grid, step.grid, step.model.dynamics.codebook_size)
    equal, differences = [], []
    for _ in range(num_steps):
        action = int(rng.integers(step.model.num_actions))
        noise = rng.random(shape, np.float32) if step.temperature else None
        (ids, pixels), (own_ids, own_pixels) = (player.step(action, noise) for player in players)
        equal.append(float((ids == own_ids).mean()))
        differences.append(int(np.abs(pixels.astype(int) - own_pixels).max()))
    same = next((i for i, share in enumerate(equal) if share < 1), num_steps)
    return {
        "num_steps": num_steps,
        "equal_steps": same,
        "equal_tokens": float(np.mean(equal)),
        "pixel_difference": max(differences[:same], default=0),
    }
