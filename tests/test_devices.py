"""What GPUs and Metal ask of the code, as far as a processor can show it."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.components.attention import attend, fused_attention
from models.components.transfer import on_cpu, to_device
from models.construct_model import build_model
from tests.model_helpers import tiny_config as tiny_model_config
from tests.test_imports import ROOT_DPATH, source_paths
from tests.training_helpers import tiny_config, world_config
from training import parallel, trainer
from training.main import evaluate, train
from training.parallel import ParallelModel
from training.runtime import make_runtime


class NoFloat64(TorchDispatchMode):
    """Refuses results in float64, which Metal has not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            assert not isinstance(leaf, torch.Tensor) or leaf.dtype != torch.float64, func
        return result


def test_training_validation_and_evaluation_compute_nothing_in_float64(root, monkeypatch):
    cfg = world_config(root, "genie_redux")
    cfg.train.num_train_steps, cfg.train.validate_every = 1, 1
    cfg.tokenizer.dead_code_threshold = cfg.lam.dead_code_threshold = 1.0
    cfg.dynamics.history.prefix = cfg.dynamics.history.corruption = 0.5
    cfg.optimizer.name = "muon"
    with NoFloat64():
        cfg.eval.model_fpath = str(train(cfg))
    cfg.eval.n_total_samples, cfg.eval.drift_frames, cfg.eval.action_following_steps = 1, 6, 1
    # Probing latent actions is done on the processor, in float64.
    monkeypatch.setattr("training.evaluation.compute_action_scores", lambda rows, codes: ({}, ""))
    with NoFloat64():
        evaluate(cfg)


def test_a_frozen_tokenizer_trains_its_decoder_without_float64(root):
    cfg = tiny_config(root)
    cfg.train.num_train_steps = 1
    with NoFloat64():
        train(cfg)


def test_fused_attention_equals_plain_attention_with_its_gradients():
    torch.manual_seed(0)
    shape = (2, 3, 4, 5, 8)
    for queries in (5, 1):
        inputs = [torch.randn(shape), torch.randn(shape), torch.randn(shape), torch.randn(4, 5, 5)]
        inputs[0], inputs[3] = inputs[0][..., -queries:, :], inputs[3][:, -queries:]
        ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
        plain, fused = attend(*ours), fused_attention(*theirs)
        torch.testing.assert_close(fused, plain)
        for out in (plain, fused):
            out.square().sum().backward()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3)


class _Copied:
    """Stands in for a tensor in the processor's memory; keeps how it was copied."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pin_memory(self) -> "_Copied":
        self.calls.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> "_Copied":
        self.calls.append("without waiting" if non_blocking else "waiting")
        return self


@pytest.mark.parametrize(
    ("device", "calls"), [("cuda:1", ["pinned", "without waiting"]), ("mps", ["waiting"]), ("cpu", ["waiting"])]
)
def test_copies_wait_unless_their_memory_stays(device, calls):
    copied = _Copied()
    to_device(copied, torch.device(device))  # type: ignore[arg-type]
    assert copied.calls == calls


def test_copies_that_do_not_wait_are_made_in_one_place():
    found = {path for path in source_paths() if re.search(r"non_blocking=|pin_memory\(\)\.to", path.read_text())}
    assert found == {ROOT_DPATH / "models" / "components" / "transfer.py"}


def test_random_numbers_are_set_aside_on_the_processor_alone():
    """By default PyTorch sets aside those of every GPU, which takes memory on each, and warns."""
    uses = [use for path in source_paths() for use in re.findall(r"fork_rng\([^)]*", path.read_text())]
    assert uses and all("devices=[]" in use for use in uses)


class Elsewhere(torch.Tensor):
    """A tensor that is plain only once it was asked to come to the CPU."""

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_nested_states_come_to_the_cpu_whole() -> None:
    """What processes exchange: of another one's GPU there is no memory here."""
    tensor = torch.arange(3).as_subclass(Elsewhere)
    found = on_cpu({"a": [tensor, {"b": (tensor, 1, "text", None)}], "plain": torch.ones(2)})
    first, rest = found["a"]
    assert {type(value) for value in (first, rest["b"][0], found["plain"])} == {torch.Tensor}
    assert first.tolist() == rest["b"][0].tolist() == [0, 1, 2] and rest["b"][1:] == (1, "text", None)


def test_a_process_trains_on_the_only_gpu_that_it_sees(monkeypatch):
    """As a cluster may show each process of a machine one GPU, which is number 0 for all of them."""
    made: list[dict[str, Any]] = []

    def copied(module: nn.Module, **options: Any) -> nn.Module:
        made.append(options)
        return module

    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", copied)
    runtime = make_runtime("cpu", "fp32")
    for name, value in {"num_processes": 8, "local_process_index": 5, "multi_device": True}.items():
        monkeypatch.setattr(Accelerator, name, value)
    ParallelModel(build_model(tiny_model_config("tokenizer")), runtime, 4)
    (options,) = made
    assert options.get("device_ids") in (None, [0])


def test_convolutions_in_float32_are_not_rounded(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    make_runtime("cpu", "fp32")
    assert not torch.backends.cudnn.allow_tf32


def test_a_model_is_sharded_before_it_is_on_a_gpu(monkeypatch, tmp_path):
    """So that no GPU need hold it whole; "meta" stands in for one."""
    found: set[str] = set()
    note = lambda layer, **_: found.update(parameter.device.type for parameter in layer.parameters())  # noqa: E731
    monkeypatch.setattr(parallel, "fully_shard", note)
    monkeypatch.setattr(parallel, "init_device_mesh", lambda *_: None)
    monkeypatch.setattr(trainer, "make_optimizer", lambda *_: None)
    cfg, model = tiny_config(tmp_path), build_model(tiny_model_config("tokenizer"))
    runtime: Any = SimpleNamespace(device=torch.device("meta"), num_processes=2, is_sharded=True)
    prepared: Any = SimpleNamespace(model=model, config=None)
    rest: Any = None
    trainer.Trainer(trainer.TrainerConfig(cfg.train, cfg.optimizer, 0, False), runtime, prepared, rest, rest)
    assert found == {"cpu"}
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
