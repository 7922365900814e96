"""Ways of computing: what is kept, recomputed, cast or fused changes speed and memory, not results."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from benchmarks.memory import AllocatedBytes
from benchmarks.models import kept_bytes, operations
from benchmarks.models_cases import NUM_FRAMES, sized
from benchmarks.models_plain import make_plain, plain_sample
from models.components.attention import _UnitVectors, attend
from models.components.st_transformer import STTransformer
from models.config import DynamicsConfig, LamConfig, ModelConfig, TokenizerConfig, TransformerConfig
from models.construct_model import build_model
from models.genie_redux import SampleSettings
from models.precision import cast_matmul_weights
from tests.model_helpers import random_actions, random_video, tiny_config
from training.allocator import keep_freed_memory

SIZES = {"dim": 32, "num_blocks": 2, "heads": 2, "dim_head": 16}


def tiny_model(model: str = "genie_redux_guided"):
    torch.manual_seed(0)
    config = ModelConfig(
        model=model,
        tokenizer=TokenizerConfig(**SIZES, image_size=16, codebook_size=32),
        lam=LamConfig(**SIZES, num_actions=4),
        dynamics=DynamicsConfig(**SIZES, max_seq_len=16 * 12, action_dim=4),
    )
    return build_model(config).eval()


def video(num_frames: int = 6) -> torch.Tensor:
    return torch.rand(2, num_frames, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def actions(count: int = 5) -> torch.Tensor:
    return torch.randint(4, (2, count), generator=torch.Generator().manual_seed(2))


# ---- gradient checkpointing -----------------------------------------------------------------------------------------


def gradients(mode: str, bf16: bool) -> tuple[list[torch.Tensor], int]:
    """Gradients of a transformer and its inputs, and bytes that its forward pass kept for the backward pass."""
    torch.manual_seed(0)
    transformer = STTransformer(TransformerConfig(**SIZES, gradient_checkpointing=mode), "st")
    x, bias = torch.randn(1, 5, 4, 4, 32, requires_grad=True), torch.randn(2, 16, 16, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", enabled=bf16):
        loss = transformer(x, bias).square().sum()
    loss.backward()
    found = [p.grad for p in transformer.parameters()] + [x.grad, bias.grad]
    return [g for g in found if g is not None], sum(kept.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_gradient_checkpointing_gives_the_same_gradients(mode, bf16):
    expected, kept = gradients("none", bf16)
    found, kept_less = gradients(mode, bf16)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert kept_less < kept


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("kind", ["lam", "genie_redux_guided"])
def test_gradient_checkpointing_after_a_pass_without_gradients(mode, kind):
    """As where the best of all codes is looked for, or where the model continues a clip itself, in bf16."""
    losses = []
    for each in ("none", mode):
        config = tiny_config(kind)
        config.lam.assignment, config.dynamics.history.continued = "best", 1.0
        config.lam.gradient_checkpointing = config.dynamics.gradient_checkpointing = each
        torch.manual_seed(0)
        model = build_model(config).train()
        video, actions = random_video(4), random_actions(3)
        with torch.autocast("cpu"):
            loss = model(video, actions, torch.Generator().manual_seed(0)).loss
        loss.backward()
        losses.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(losses[0]) == len(losses[1]) > 1
    for ours, theirs in zip(*losses, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["lam", "genie_redux_guided"])
def test_casts_of_a_pass_without_gradients_are_forgotten_before_one_with_them(monkeypatch, kind):
    """Older versions of PyTorch take them for the second pass, too, and the weights get no gradients."""
    config = tiny_config(kind)
    config.lam.assignment, config.dynamics.history.continued = "best", 1.0
    model = build_model(config).train()
    cast_without: set[torch.nn.Module] = set()
    used_again = []

    def note(module: torch.nn.Module, _inputs) -> None:
        if not torch.is_grad_enabled():
            cast_without.add(module)
        elif module in cast_without:
            used_again.append(module)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight.requires_grad:
            module.register_forward_pre_hook(note)
    with torch.autocast("cpu"):
        monkeypatch.setattr(torch, "clear_autocast_cache", cast_without.clear)
        model(random_video(4), random_actions(3), torch.Generator().manual_seed(0))
        assert not used_again
        monkeypatch.undo()


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="gradient_checkpointing=some: is unknown; use none, selective, full"):
        STTransformer(TransformerConfig(**SIZES, gradient_checkpointing="some"), "st")


# ---- fused and cast forms -------------------------------------------------------------------------------------------


def test_unit_vectors_equal_normalise_and_scale():
    x, scale = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(
        _UnitVectors.apply(x.float(), scale.float()), F.normalize(x.float(), dim=-1) * scale.float()
    )
    ours = [t.float().requires_grad_() for t in (x, scale)]
    theirs = [t.float().requires_grad_() for t in (x, scale)]
    weight = torch.randn(3, 4, 5)
    (_UnitVectors.apply(*ours) * weight).sum().backward()
    (F.normalize(theirs[0], dim=-1) * theirs[1] * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["genie_redux_guided", "genie_redux"])
def test_weights_cast_once_give_what_autocast_gives(name):
    model = tiny_model(name)
    cast = cast_matmul_weights(deepcopy(model), torch.bfloat16)
    settings = SampleSettings("one_go", inference_steps=3)
    with torch.autocast("cpu", torch.bfloat16):
        draw = lambda m: m.sample(video(2), actions(5), 4, settings, torch.Generator().manual_seed(0))  # noqa: E731
        assert torch.equal(draw(cast), draw(model))
        assert torch.equal(cast.tokenizer.encode(video()), model.tokenizer.encode(video()))
        if name == "genie_redux":
            assert torch.equal(cast.infer_actions(video()), model.infer_actions(video()))
    size = lambda m: sum(p.numel() * p.element_size() for p in m.parameters())  # noqa: E731
    assert size(cast) < 0.7 * size(model)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", ["tokenizer_train", "lam_train"])
def test_a_training_step_keeps_less_than_three_quarters_of_what_autograd_would_keep(name, precision):
    """Once an eager step needed as much memory as the original's, and a third more than a compiled one."""
    ours, plain = (kept_bytes(name, "exploration", precision, plain) for plain in (False, True))
    assert ours < 0.75 * plain


def test_allocated_bytes_are_those_of_tensors_alive_at_a_time():
    with AllocatedBytes() as allocated:
        first = torch.ones(1000)
        second = first.view(10, 100) + 1
        del first
        second = second * 2
    assert (allocated.peak, allocated.now) == (8000, 4000) == (2 * second.nbytes, second.nbytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_has_the_gradients_of_its_plain_form(dtype):
    torch.manual_seed(0)
    bias = torch.randn(3, 10, 10).masked_fill(torch.ones(10, 10, dtype=torch.bool).triu(1), float("-inf"))
    inputs = [F.normalize(torch.randn(2, 4, 3, 10, 8), dim=-1) for _ in range(3)]
    weight, found = torch.randn(2, 4, 3, 10, 8), []
    for attention, kind in ((attend, dtype), (_plain_attention, torch.float32)):
        leaves = [t.to(kind).requires_grad_() for t in inputs] + [bias.clone().requires_grad_()]
        (attention(*leaves).float() * weight).sum().backward()
        found.append([leaf.grad.float() for leaf in leaves])
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for ours, expected in zip(*found, strict=True):
        assert (ours - expected).norm() < tolerance * expected.norm()


def _plain_attention(q, k, v, bias):
    return (8 * q @ k.transpose(-2, -1) + bias).softmax(dim=-1) @ v


def test_keeping_freed_memory_is_harmless_twice():
    assert keep_freed_memory() == keep_freed_memory()
    assert torch.ones(2**24).sum() == 2**24


# ---- the plain form that benchmarks compare with --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer", "lam", "genie_redux_guided", "genie_redux"])
def test_plain_training_gives_the_same_loss_and_gradients(name):
    losses, found = [], []
    for plain in (False, True):
        model = tiny_model(name).train()
        if plain:
            make_plain(model)
        output = (
            model(video(), actions(), torch.Generator().manual_seed(3)) if name.startswith("genie") else model(video())
        )
        output.loss.backward()
        losses.append(output.loss)
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][key], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["genie_redux_guided", "genie_redux"])
@pytest.mark.parametrize(
    "settings",
    [SampleSettings("one_go", 4), SampleSettings("autoregressive", 4, 1), SampleSettings("autoregressive", 4, 2)],
)
def test_plain_sampling_draws_the_same_ids(name, settings):
    model, seed = tiny_model(name), 5
    prime, taken = video(2), actions(5)
    ours = torch.cat(
        [
            chunk.ids
            for chunk in model.sample_chunks(
                model.tokenizer.encode(prime), taken, 4, settings, torch.Generator().manual_seed(seed)
            )
        ],
        dim=1,
    )
    frames = model.sample(prime, taken, 4, settings, torch.Generator().manual_seed(seed))
    plain = plain_sample(make_plain(model), prime, taken, 4, settings, torch.Generator().manual_seed(seed))
    assert torch.equal(plain.ids[:, 2:], ours)
    torch.testing.assert_close(plain.video, frames, atol=1e-5, rtol=1e-5)


def test_a_training_step_counts_three_times_its_forward_products():
    """Once a depthwise convolution's gradient was counted as a full one's, and floors came out twice too high."""
    width, tokens = sized("exploration").tokenizer.dim, 2 * NUM_FRAMES * 64
    inner, hidden = 3 * 32, int(4 * 2 / 3 * width)
    half = 4 * width * inner + 3 * width * hidden
    linear = 4 * half * 2 * tokens * 3  # four halves; a product forward, two backward
    assert linear < operations("tokenizer_train", "exploration") < 1.35 * linear
