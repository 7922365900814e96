"""How a model is trained by several processes: a copy of it on each (DDP), or its parameters sharded (FSDP2)."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from data_generation.data.errors import FieldError
from models.base import Model
from training.runtime import Runtime


class ParallelModel:
    """A model that the processes of a run train together. All of them must make it, and call its methods, alike.

    It is made of a model on the CPU, which it moves to the device of the run.
    `module` computes the loss; its parameters are those to optimise. What is stored is whole and does not depend on how
    it was trained, so that a checkpoint of any number of processes, sharded or not, is resumed by any other.
    """

    def __init__(self, model: Model, runtime: Runtime, num_frames: int):
        self._runtime = runtime
        # Under FSDP2, the model with whole parameters: it is stored, and validated.
        self._copy: Model | None = None
        if runtime.is_sharded:
            _check_can_be_sharded(model)
            self._copy = deepcopy(model)
            self.module: nn.Module = _sharded(model, runtime)
        else:
            model.to(runtime.device)
            self.module = model if runtime.num_processes == 1 else _copied(model, num_frames)
        self._model = model

    @torch.no_grad()
    def whole_model(self, device: torch.device) -> Model:
        """The model with whole parameters, on every process: the one that trains, or a copy of it on the device."""
        if self._copy is None:
            return self._model
        targets = self._copy.to(device).state_dict()
        for name, tensor in self._model.state_dict().items():
            targets[name].copy_(whole(tensor))
        return self._copy

    def release(self) -> None:
        """Take the copy that `whole_model` gave off the device."""
        if self._copy is not None:
            self._copy.cpu()

    def whole_values(self, values: Any) -> Any:
        """Nested dictionaries of an optimiser with whole tensors.

        Those that were sharded are on the CPU of the first process; the others get None.
        """
        if isinstance(values, dict):
            return {name: self.whole_values(value) for name, value in values.items()}
        if not isinstance(values, DTensor):
            return values
        tensor = whole(values)
        return tensor.cpu() if self._runtime.is_main else None


def whole(tensor: Tensor) -> Tensor:
    """A tensor whose shards are put together; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """The shard of this process, without asking another."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor that every process holds, cut into shards as the parameter is."""
    if not isinstance(parameter, DTensor):
        return tensor
    tensor = tensor.to(parameter.device)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _check_can_be_sharded(model: Model) -> None:
    """FieldError for what changes parameters in the forward pass, which only has copies of the shards."""
    if model.dead_code_threshold > 0:
        threshold = f"dead_code_threshold={model.dead_code_threshold:g}"
        problem = f"{threshold} resets dead codes, which is not supported with sharded parameters"
        remedy = "leave one of the two out (trained weights bring their threshold: train those without shards)"
        raise FieldError("train.sharded", "true", problem, remedy)


def _copied(model: Model, num_frames: int) -> nn.Module:
    """A copy of the model on each process, which averages gradients.

    Without `device_ids`: Accelerate names the GPU of the process's number on its machine, and where a cluster shows
    each process one GPU alone, there is none of that number. Inputs are on the model's device already.
    """
    unused = model.has_unused_parameters(num_frames)
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=unused)


def _sharded(model: Model, runtime: Runtime) -> Model:
    """The model with its parameters cut in place: each layer's are gathered when it computes, then dropped.

    Layer by layer they go from the CPU to the device, which never holds all of them.
    """
    mesh = init_device_mesh(runtime.device.type, (runtime.num_processes,))
    # Frozen parts are called in other ways than by their forward pass; they stay whole.
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    for layer in model.trained_layers():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=frozen)
    return model.to(runtime.device)
