"""Properties of the models: causality, caches, sampling, checkpoints."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from models import streaming
from models.checkpoint import load_model, load_tokenizer, save_model
from models.components.attention import attend
from models.components.maskgit import (
    DecodeSettings,
    iterative_decode,
    mask_fraction,
    random_mask,
    token_distance,
)
from models.components.position import PEG, ContinuousPositionBias, alibi_slopes, causal_alibi
from models.components.st_transformer import Cache, STTransformer
from models.components.vector_quantize import VectorQuantizer
from models.config import DynamicsConfig, LamConfig, ModelConfig, TokenizerConfig, TransformerConfig
from models.construct_model import build_model
from models.genie_redux import GenieRedux, SampleSettings
from models.tokenizer import Tokenizer

SIZES = {"dim": 16, "num_blocks": 2, "heads": 2, "dim_head": 8}


def tiny_config(model: str = "genie_redux_guided") -> ModelConfig:
    return ModelConfig(
        model=model,
        tokenizer=TokenizerConfig(**SIZES, image_size=16, codebook_size=32),
        lam=LamConfig(**SIZES, num_actions=4),
        dynamics=DynamicsConfig(**SIZES, max_seq_len=16 * 12, action_dim=5),
        action_names=["RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP"],
    )


def tiny_model(model: str = "genie_redux_guided", seed: int = 0):
    torch.manual_seed(seed)
    return build_model(tiny_config(model)).eval()


def random_video(num_frames: int = 8, batch: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, num_frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def random_actions(num_actions: int = 7, batch: int = 2, high: int = 4) -> torch.Tensor:
    return torch.randint(high, (batch, num_actions), generator=torch.Generator().manual_seed(2))


# ---- components -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
def test_peg_equals_a_causal_depthwise_conv3d(num_frames):
    peg = PEG(6)
    x = torch.randn(2, num_frames, 4, 5, 6)
    volume = F.pad(rearrange(x, "b t h w d -> b d t h w"), (1, 1, 1, 1, 2, 0))
    expected = F.conv3d(volume, peg.weight, peg.bias, groups=6)
    torch.testing.assert_close(peg(x), rearrange(expected, "b d t h w -> b t h w d"), atol=1e-5, rtol=1e-5)


def test_position_bias_table_equals_the_mlp_of_every_pair():
    bias = ContinuousPositionBias(8, 3)
    height, width = 3, 4
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1).view(-1, 2)
    offsets = (grid[:, None] - grid[None, :]).float()
    x = torch.sign(offsets) * torch.log(offsets.abs() + 1)
    for layer in bias.layers[:-1]:
        x = F.leaky_relu(layer(x), 0.1)
    expected = bias.layers[-1](x).permute(2, 0, 1)
    torch.testing.assert_close(bias(height, width), expected)


def test_alibi_slopes():
    assert alibi_slopes(8) == tuple(2.0**-k for k in range(1, 9))
    assert len(alibi_slopes(6)) == 6
    assert alibi_slopes(6)[:4] == alibi_slopes(4)
    full, last = causal_alibi(2, 5, 5, torch.device("cpu")), causal_alibi(2, 2, 5, torch.device("cpu"))
    assert torch.equal(full[:, -2:], last)
    assert torch.isinf(full[0].triu(1)[full[0].triu(1) != 0]).all()


def test_bf16_attention_on_cpu_agrees_with_float32():
    q, k, v = (F.normalize(torch.randn(2, 3, 10, 8), dim=-1) for _ in range(3))
    bias = causal_alibi(3, 10, 10, torch.device("cpu"))
    low = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), bias)
    torch.testing.assert_close(low.float(), attend(q, k, v, bias), atol=0.02, rtol=0.05)


@pytest.mark.parametrize("order", ["st", "ts"])
def test_transformer_is_causal_and_extending_it_equals_running_it_whole(order):
    torch.manual_seed(0)
    transformer = STTransformer(TransformerConfig(**SIZES), order).eval()
    x, bias = torch.randn(2, 7, 3, 3, 16), torch.randn(2, 9, 9)
    with torch.no_grad():
        whole = transformer(x, bias)
        changed = x.clone()
        changed[:, 4:] += 1
        assert torch.equal(transformer(changed, bias)[:, :4], whole[:, :4])
        for pieces in ([7], [1, 1, 1, 1, 1, 1, 1], [3, 4], [1, 2, 4], [5, 1, 1]):
            cache, outputs = Cache(), []
            for piece in x.split(pieces, dim=1):
                out, cache = transformer.extend(piece, bias, cache)
                outputs.append(out)
            torch.testing.assert_close(torch.cat(outputs, dim=1), whole, atol=1e-5, rtol=1e-5)


# ---- masks and decoding ---------------------------------------------------------------------------------------------


def test_random_mask_is_repeatable_never_empty_and_has_one_rate_per_step():
    make = lambda seed: random_mask((4, 15, 16, 16), 0.5, torch.device("cpu"), torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(make(3), make(3))
    for seed in range(20):
        rates = make(seed).float().mean(dim=(1, 2, 3))
        assert rates.min() > 0.48
        assert rates.max() - rates.min() < 0.05
    assert all(
        random_mask((1, 1, 1, 1), 0.0, torch.device("cpu"), torch.Generator().manual_seed(s)).any() for s in range(20)
    )


@pytest.mark.parametrize("schedule", ["cosine", "uniform", "pow2", "pow0.5", "log", "exp"])
def test_mask_schedules_fall_from_nearly_all_to_nearly_none(schedule):
    fractions = [mask_fraction(schedule, r / 25) for r in range(1, 26)]
    assert fractions == sorted(fractions, reverse=True)
    assert fractions[-1] == pytest.approx(1e-6, abs=1e-5)
    assert all(1e-6 <= f <= 1 for f in fractions)


def test_unknown_mask_schedule_is_named():
    with pytest.raises(ValueError, match="cosin"):
        mask_fraction("cosin", 0.5)


def test_one_frame_needs_no_rounds():
    def never(ids, mask):
        raise AssertionError("rounds cannot change the first new frame")

    first = torch.randn(2, 1, 3, 3, 8)
    ids, logits = iterative_decode(first, 1, never, DecodeSettings(25, 1.0), None)
    assert torch.equal(ids, first.argmax(-1))
    assert logits is first


def test_last_round_is_an_argmax():
    first, later = torch.randn(1, 1, 2, 2, 8), torch.randn(1, 2, 2, 2, 8)
    ids, logits = iterative_decode(first, 3, lambda *_: later, DecodeSettings(5, 4.0), torch.Generator().manual_seed(0))
    assert torch.equal(ids, torch.cat([first, later], 1).argmax(-1))
    assert torch.equal(logits.argmax(-1), ids)


def test_token_distance_equals_the_papers_sum():
    logits, targets, codebook = torch.randn(4, 6), torch.tensor([0, 2, 5, 5]), torch.randn(6, 3)
    codes = F.normalize(codebook, dim=-1)
    expected = (logits.softmax(-1) * (1 - codes[targets] @ codes.t())).sum(-1)
    torch.testing.assert_close(token_distance(logits, targets, codebook), expected)


# ---- tokenizer ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_tokenizer_is_causal_both_ways():
    model, video = tiny_model("tokenizer"), random_video()
    changed = video.clone()
    changed[:, 5:] = 0
    ids = model.encode(video)
    assert torch.equal(model.encode(changed)[:, :5], ids[:, :5])
    other = ids.clone()
    other[:, 5:] = 0
    assert torch.equal(model.decode(other)[:, :5], model.decode(ids)[:, :5])


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 8, [2, 6], [5, 2, 1]])
def test_decoding_frame_by_frame_equals_decoding_at_once(pieces):
    model = tiny_model("tokenizer")
    ids = model.encode(random_video())
    cache, frames = Cache(), []
    for piece in ids.split(pieces, dim=1):
        decoded = model.decode_next(piece, cache)
        cache = decoded.cache
        frames.append(decoded.video)
    torch.testing.assert_close(torch.cat(frames, dim=1), model.decode(ids), atol=1e-5, rtol=1e-5)


def test_temporal_patches():
    config = TokenizerConfig(**SIZES, image_size=16, temporal_patch_size=2)
    model, video = Tokenizer(config), random_video(7)
    ids = model.encode(video)
    assert ids.shape == (2, 4, 4, 4)
    assert model.decode(ids).shape == video.shape
    with pytest.raises(ValueError, match="temporal_patch_size"):
        model.encode(random_video(8))


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match="built for 16x16"):
        tiny_model("tokenizer").encode(torch.rand(1, 2, 3, 32, 32))


# ---- world models ---------------------------------------------------------------------------------------------------


def test_only_dynamics_and_lam_learn():
    for name in ("genie_redux_guided", "genie_redux"):
        model = tiny_model(name).train()
        assert not model.tokenizer.training
        model(random_video(), random_actions()).loss.backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, f"no gradient: {without}"
        assert all(p.grad is None for p in model.tokenizer.parameters())


@torch.no_grad()
def test_logits_depend_on_actions_and_on_the_past_only():
    model, video, actions = tiny_model(), random_video(), random_actions()
    ids = model.tokenizer.encode(video)[:, :-1]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    logits = lambda ids, actions: model.dynamics(ids, mask, actions, model._token_input(ids))  # noqa: E731
    whole = logits(ids, actions)
    changed = actions.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 4
    assert torch.equal(logits(ids, changed)[:, :3], whole[:, :3])
    assert not torch.allclose(logits(ids, changed)[:, 3], whole[:, 3])
    other = ids.clone()
    other[:, 4:] = 0
    assert torch.equal(logits(other, actions)[:, :4], whole[:, :4])


@torch.no_grad()
def test_masked_tokens_are_not_seen():
    model, actions = tiny_model(), random_actions()
    ids = model.tokenizer.encode(random_video())[:, :-1]
    mask = torch.rand(ids.shape, generator=torch.Generator().manual_seed(5)) < 0.5
    other = torch.where(mask, (ids + 1) % 32, ids)
    a = model.dynamics(ids, mask, actions, model._token_input(ids))
    assert torch.equal(a, model.dynamics(other, mask, actions, model._token_input(other)))


def uncached_sample(model: GenieRedux, prime_ids, actions, num_frames, settings, generator):
    """The sampler without caches: every round runs the dynamics over the whole window."""
    ids, total = prime_ids, prime_ids.shape[1] + num_frames
    length = num_frames if settings.method == "one_go" else settings.dream_length
    while ids.shape[1] < total:
        known, count = ids, min(length, total - ids.shape[1])

        def logits_of(later_ids, later_mask, known=known, count=count):
            window = torch.cat([known, later_ids], dim=1)
            mask = torch.cat([torch.zeros_like(known, dtype=torch.bool), later_mask], dim=1)
            inputs = model.action_input(actions)[:, : window.shape[1]]
            return model.dynamics(window, mask, inputs, model._token_input(window))[:, -count:]

        blank = torch.zeros(ids.shape[0], count - 1, *ids.shape[2:], dtype=torch.int64)
        first = logits_of(blank, torch.ones_like(blank, dtype=torch.bool))[:, :1]
        decode = DecodeSettings(settings.inference_steps, model.dynamics.config.sample_temperature, "cosine")
        new, _ = iterative_decode(first, count, lambda i, m: logits_of(i, m)[:, 1:], decode, generator)
        ids = torch.cat([ids, new], dim=1)
    return model.tokenizer.decode(ids)[:, -num_frames:]


@torch.no_grad()
@pytest.mark.parametrize("name", ["genie_redux_guided", "genie_redux"])
@pytest.mark.parametrize(("method", "dream_length", "num_prime", "num_frames"), [
    ("one_go", 2, 2, 6), ("one_go", 2, 1, 3), ("autoregressive", 1, 2, 5), ("autoregressive", 2, 2, 5),
    ("autoregressive", 3, 1, 7),
])  # fmt: skip
def test_cached_sampling_equals_uncached(name, method, dream_length, num_prime, num_frames):
    model, video = tiny_model(name), random_video()
    actions = random_actions(num_prime - 1 + num_frames)
    settings = SampleSettings(method, inference_steps=4, dream_length=dream_length)
    seed = lambda: torch.Generator().manual_seed(9)  # noqa: E731
    cached = model.sample(video[:, :num_prime], actions, num_frames, settings, seed())
    prime_ids = model.tokenizer.encode(video[:, :num_prime])
    torch.testing.assert_close(
        cached, uncached_sample(model, prime_ids, actions, num_frames, settings, seed()), atol=1e-5, rtol=1e-5
    )
    assert cached.shape == (2, num_frames, 3, 16, 16)  # exactly N, also where dream_length does not divide it


@torch.no_grad()
def test_a_sample_with_its_own_generator_does_not_depend_on_its_neighbours():
    model, video, actions = tiny_model(), random_video(batch=3), random_actions(7, batch=3)
    settings = SampleSettings(inference_steps=4)
    seeds = lambda *rows: [torch.Generator().manual_seed(row) for row in rows]  # noqa: E731
    together = model.sample(video[:, :2], actions, 6, settings, seeds(0, 1, 2))
    alone = model.sample(video[1:2, :2], actions[1:2], 6, settings, seeds(1))
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)


def test_sampling_refuses_a_wrong_number_of_actions_and_too_long_windows():
    model, video = tiny_model(), random_video()
    with pytest.raises(ValueError, match="need 6 actions, got 5"):
        model.sample(video[:, :2], random_actions(5), 5, SampleSettings())
    with pytest.raises(ValueError, match="max_seq_len"):
        model.sample(video[:, :2], random_actions(21), 20, SampleSettings(inference_steps=1))
    with pytest.raises(ValueError, match="use one_go or autoregressive"):
        model.sample(video[:, :2], random_actions(2), 1, SampleSettings("onego"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["genie_redux_guided", "genie_redux"])
@pytest.mark.parametrize("num_prime", [1, 3])
def test_streaming_equals_autoregressive_sampling(name, num_prime):
    model, video, actions = tiny_model(name), random_video(), random_actions(num_prime - 1 + 6)
    settings = SampleSettings("autoregressive", dream_length=1)
    expected = model.sample(video[:, :num_prime], actions, 6, settings)
    state = model.start(video[:, :num_prime], actions[:, : num_prime - 1])
    for t in range(6):
        frame, state = model.step(state, actions[:, num_prime - 1 + t])
        torch.testing.assert_close(frame, expected[:, t], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_streaming_beyond_the_window_goes_on_as_if_started_from_its_newer_half():
    model, actions = tiny_model(), random_actions(30)
    state = model.start(random_video(1), window=6)
    for t in range(30):
        before = state
        frame, state = model.step(state, actions[:, t])
        assert state.ids.shape[1] <= 6
        if before.ids.shape[1] == 6:
            fresh = streaming.start(model, before.ids[:, -3:], before.actions[:, -2:], 6)
            torch.testing.assert_close(frame, model.step(fresh, actions[:, t])[0], atol=1e-5, rtol=1e-5)
    again, _ = model.step(before, actions[:, -1])  # states are values: the same step twice gives the same frame
    assert torch.equal(again, frame)


@pytest.mark.parametrize(("loss", "weight"), [("tdce", 0.0), ("cross_entropy", 1.0)])
def test_optional_losses_reach_the_dynamics(loss, weight):
    config = tiny_config()
    config.dynamics.loss, config.dynamics.decoder_loss_weight = loss, weight
    torch.manual_seed(0)
    model = build_model(config)
    seeded = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    output = model(random_video(), random_actions(), seeded())
    plain = output.logs["cross_entropy"]
    assert output.loss > plain
    output.loss.backward()
    assert all(p.grad is not None for p in model.dynamics.parameters())


# ---- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer", "lam", "genie_redux", "genie_redux_guided"])
def test_saved_and_loaded_gives_the_same_outputs(tmp_path, name):
    model, config = tiny_model(name), tiny_config(name)
    save_model(tmp_path / "model-7.pt", model, config, 7)
    torch.manual_seed(99)
    loaded = load_model(tmp_path / "model-7.pt")
    assert loaded.step == 7
    assert loaded.config == config
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value), key
    assert (tmp_path / "config.yaml").exists()


def test_reloaded_guided_model_keeps_its_action_embeddings(tmp_path):
    model = tiny_model()
    embedding = model.dynamics.action_embedding
    assert embedding.weight.requires_grad
    assert any(p is embedding.weight for p in model.parameters())
    save_model(tmp_path / "model-1.pt", model, tiny_config(), 1)
    loaded = load_model(tmp_path / "model-1.pt").model
    assert torch.equal(loaded.dynamics.action_embedding.weight, embedding.weight)


def test_world_model_without_its_tokenizer_is_an_error(tmp_path):
    save_model(tmp_path / "model-1.pt", tiny_model(), tiny_config(), 1)
    (tmp_path / "tokenizer.pt").unlink()
    with pytest.raises(FileNotFoundError, match="tokenizer_fpath"):
        load_model(tmp_path / "model-1.pt")


def test_checkpoint_errors_are_one_line_and_name_the_file(tmp_path):
    path = tmp_path / "model-1.pt"
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_model(path)
    save_model(path, tiny_model("tokenizer"), tiny_config("tokenizer"), 1)
    with pytest.raises(FileNotFoundError, match=r"the folder has model-1\.pt"):
        load_model(tmp_path / "model-2.pt")
    content = torch.load(path, weights_only=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(path)
    torch.save({"something": 1}, path)
    with pytest.raises(ValueError, match="not a model checkpoint"):
        load_model(path)
    renamed = {f"x.{k}" if k == "quantizer.codebook" else k: v for k, v in content["model"].items()}
    torch.save({**content, "model": renamed}, path)
    with pytest.raises(ValueError, match=r"unknown tensors, first 'x\.quantizer\.codebook'"):
        load_model(path)


def test_a_tokenizer_path_that_is_a_world_model_is_an_error(tmp_path):
    save_model(tmp_path / "model-1.pt", tiny_model(), tiny_config(), 1)
    with pytest.raises(ValueError, match="not a tokenizer"):
        load_tokenizer(tmp_path / "model-1.pt")
    assert isinstance(load_tokenizer(tmp_path / "tokenizer.pt"), nn.Module)


def test_a_file_never_executes_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"model": Evil(), "optim": {}}, tmp_path / "model-1.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path / "model-1.pt")


def test_dead_codes_are_moved_to_what_is_fitted_badly():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 16, 4, 0.25, dead_code_threshold=0.1)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.0)
    points = torch.randn(3, 8).repeat_interleave(torch.tensor([980, 10, 10]), dim=0)
    before = quantizer(points).loss
    for _ in range(100):
        optimizer.zero_grad()
        quantizer(points).loss.backward()
        optimizer.step()
    after = quantizer.eval()(points)
    assert after.loss < 0.1 * before
    assert torch.equal(quantizer(points).ids, after.ids)  # evaluation moves nothing
