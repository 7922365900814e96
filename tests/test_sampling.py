"""Sampling: caches, generators and streaming change nothing about the frames."""

import pytest
import torch

from data_generation.data.errors import FieldError
from models import streaming
from models.components.maskgit import DecodeSettings, halton_ranks, iterative_decode, last_ranked, unmask_ranks
from models.components.position import causal_alibi
from models.construct_model import build_model
from models.genie_redux import GenieRedux, SampleSettings
from tests.model_helpers import SIZES, random_actions, random_video, tiny_config, tiny_model


def uncached_sample(model: GenieRedux, prime_ids, actions, num_frames, settings, generator):
    """The sampler without caches: every round runs the dynamics over the whole sequence."""
    ids, total = prime_ids, prime_ids.shape[1] + num_frames
    length = num_frames if settings.method == "one_go" else settings.dream_length
    while ids.shape[1] < total:
        known, count = ids, min(length, total - ids.shape[1])

        def logits_of(later_ids, later_mask, known=known, count=count):
            window = torch.cat([known, later_ids], dim=1)
            mask = torch.cat([torch.zeros_like(known, dtype=torch.bool), later_mask], dim=1)
            inputs = model.action_input(actions)[:, : window.shape[1]]
            return model.dynamics(window, mask, inputs, model.token_input(window))[:, -count:]

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
@pytest.mark.parametrize("shared_positions", [False, True])
@pytest.mark.parametrize("num_prime", [1, 3])
def test_streaming_equals_autoregressive_sampling(name, num_prime, shared_positions):
    model = tiny_model(name, shared_positions=shared_positions)
    video, actions = random_video(), random_actions(num_prime - 1 + 6)
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


@torch.no_grad()
def test_a_history_that_slides_is_attention_to_the_newest_frames_of_a_whole_rollout():
    """Its KV cache is that of frames which have seen older ones: nothing is computed again."""
    model, actions, window = tiny_model(shared_positions=True), random_actions(30), 6
    for parameter in model.dynamics.parameters():  # ids that change from frame to frame
        parameter.mul_(3) if parameter.dim() > 1 else parameter.add_(0.1)
    state = model.start(random_video(1), window=window)
    ids = [state.ids]
    for t in range(30):
        _, state = model.step(state, actions[:, t])
        ids.append(state.ids[:, -1:])
        assert state.ids.shape[1] <= window and state.dynamics.num_frames < window
    whole, dynamics = torch.cat(ids, dim=1), model.dynamics
    inputs = whole[:, :-1]
    mask, positions = torch.zeros_like(inputs, dtype=torch.bool), dynamics.frame_positions[:1]
    x = dynamics.embed_at(inputs, mask, model.action_input(actions), model.token_input(inputs), positions)
    bias = causal_alibi(SIZES["heads"], 30, 30, x.device)
    age = torch.arange(30)[:, None] - torch.arange(30)
    bias = bias.masked_fill(age >= window, float("-inf"))
    layers = [None] * len(dynamics.transformer.halves)
    x, _ = dynamics.transformer.run_layers(x, dynamics.position_bias(4, 4), bias, layers)
    assert torch.equal(dynamics.to_logits(x).argmax(dim=-1), whole[:, 1:])
    assert (whole[:, 1:] != whole[:, :-1]).flatten(2).any(dim=2).float().mean() > 0.5


def test_a_history_that_slides_has_room_for_what_a_layer_sees():
    config = tiny_config()
    config.dynamics.shared_positions, config.dynamics.max_seq_len = True, 2 * 16
    with pytest.raises(
        FieldError, match="2 frames of 16 tokens are fewer than the 3 that a layer sees; raise it, or set"
    ):
        build_model(config)
    assert tiny_model(shared_positions=True).start(random_video(1), window=1).window == 3


@pytest.mark.parametrize("order", ["halton", "frames"])
def test_an_order_by_place_unmasks_every_token_once_and_ever_more_of_them(order):
    ranks = unmask_ranks(order, 3, 4, 4)
    assert sorted(ranks.flatten().tolist()) == list(range(48))
    masks = [last_ranked(ranks, fraction, 2) for fraction in (0.75, 0.5, 1e-6)]
    assert [int(mask[1].sum()) for mask in masks] == [36, 24, 1]
    assert not (masks[1] & ~masks[0]).any() and not (masks[2] & ~masks[1]).any()
    per_frame = masks[1][0].flatten(1).sum(1).tolist()
    assert per_frame == ([8, 8, 8] if order == "halton" else [0, 8, 16])


def test_the_halton_order_spreads_over_the_frame():
    early = halton_ranks(8, 8) < 16
    assert all(2 <= early[y : y + 4, x : x + 4].sum() <= 6 for y in (0, 4) for x in (0, 4))


@torch.no_grad()
def test_frame_by_frame_in_as_many_rounds_is_autoregressive_at_temperature_0():
    model, video, actions = tiny_model(), random_video(), random_actions(5)
    model.dynamics.config.unmask_order, model.dynamics.config.mask_schedule = "frames", "uniform"
    rounds = model.sample(video[:, :2], actions, 4, SampleSettings("one_go", 4, temperature=0))
    one_by_one = model.sample(video[:, :2], actions, 4, SampleSettings("autoregressive", 1, dream_length=1))
    torch.testing.assert_close(rounds, one_by_one)


@torch.no_grad()
@pytest.mark.parametrize("name", ["genie_redux_guided", "genie_redux"])
def test_expected_tokens_are_the_mean_of_the_histories_that_could_have_been_drawn(name):
    """The embedding of a drawn frame is that of its ids, weighted by the model's probabilities."""
    model = tiny_model(name)
    dynamics = model.dynamics
    every_id = torch.arange(dynamics.codebook_size)
    logits = torch.randn(2, 1, 4, 4, dynamics.codebook_size, generator=torch.Generator().manual_seed(0))
    ids, actions = logits.argmax(dim=-1), model.action_input(random_actions(1))
    none = torch.zeros_like(ids, dtype=torch.bool)
    assert model.history_surplus(logits, ids) is None
    dynamics.config.history_tokens = "expected"

    def embedded(ids: torch.Tensor, surplus: torch.Tensor | None = None) -> torch.Tensor:
        return dynamics.embed(ids, none, actions, model.token_input(ids), surplus=surplus)

    of_each = torch.stack([embedded(torch.full_like(ids, i)) for i in every_id], dim=-1)
    probability = torch.softmax(logits, dim=-1).unsqueeze(-2)
    expected = (of_each * probability).sum(dim=-1)
    torch.testing.assert_close(embedded(ids, model.history_surplus(logits, ids)), expected, rtol=1e-4, atol=1e-4)
    # One that is sure leaves its token.
    torch.testing.assert_close(
        embedded(ids, model.history_surplus(1e4 * logits, ids)), embedded(ids), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["genie_redux_guided", "genie_redux"])
def test_expected_tokens_stay_in_streams_and_in_autoregressive_samples_alike(name):
    model, video, actions = tiny_model(name), random_video(), random_actions(7)
    settings = SampleSettings("autoregressive", inference_steps=1, dream_length=1)
    likeliest = model.sample(video[:, :2], actions, 6, settings)
    model.dynamics.config.history_tokens = "expected"
    frames = model.sample(video[:, :2], actions, 6, settings)
    # The first new frame follows recorded ones.
    torch.testing.assert_close(frames[:, 0], likeliest[:, 0])
    state, streamed = model.start(video[:, :2], actions[:, :1]), []
    for t in range(1, 7):
        frame, state = model.step(state, actions[:, t])
        streamed.append(frame)
    torch.testing.assert_close(torch.stack(streamed, dim=1), frames, rtol=1e-4, atol=1e-4)
    assert state.surplus is not None and state.surplus[:, 2:].abs().max() > 0 and state.surplus[:, :2].abs().max() == 0
    # Frames of one pass have no history of their own.
    one_go = SampleSettings("one_go", inference_steps=2)
    expected = model.sample(video[:, :2], actions, 6, one_go, torch.Generator().manual_seed(0))
    model.dynamics.config.history_tokens = "likeliest"
    torch.testing.assert_close(
        model.sample(video[:, :2], actions, 6, one_go, torch.Generator().manual_seed(0)), expected
    )
