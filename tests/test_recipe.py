"""Recipes: what a training clip's history looks like, which tokens the loss is computed on, and the optimisers."""

import math

import pytest
import torch

from data_generation.data.errors import FieldError
from models.components.history import corrupt, history_mask, loss_weights
from models.components.maskgit import random_mask
from models.components.pixel_loss import pixel_loss
from models.components.processes import BatchShare
from models.config import HistoryConfig, SampleSettings
from models.construct_model import build_model
from models.genie_redux import GenieRedux
from tests.model_helpers import random_actions, random_video, tiny_config, tiny_model
from tests.training_helpers import assert_equal, renamed, rows, weights, world_config
from tests.training_helpers import tiny_config as training_config
from training.config import OptimizerConfig
from training.main import train
from training.optimizer import JointOptimizer, make_optimizer

CPU = torch.device("cpu")
SHAPE = (64, 7, 4, 4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks(**history: float) -> torch.Tensor:
    return history_mask(SHAPE, HistoryConfig(**history), 0.5, CPU, seeded())


def test_by_default_the_masks_are_the_published_ones() -> None:
    assert torch.equal(masks(), random_mask(SHAPE, 0.5, CPU, seeded()))


def test_complete_clips_have_no_mask() -> None:
    assert not masks(complete=1).any()
    untouched = (~masks(complete=0.5)).flatten(1).all(1).sum()
    assert 20 <= untouched <= 44


def test_a_prefix_is_complete_and_what_follows_is_masked() -> None:
    per_frame = masks(prefix=1, prefix_min_mask_rate=0.9).flatten(2).float().mean(2)
    lengths = (per_frame == 0).long().cumprod(1).sum(1)
    assert set(lengths.tolist()) == {1, 2, 3, 4, 5, 6}
    for shares, length in zip(per_frame, lengths.tolist(), strict=True):
        assert (shares[length:] > 0.5).all()


def test_a_clip_of_one_frame_keeps_it() -> None:
    assert not history_mask((8, 1, 4, 4), HistoryConfig(prefix=1), 0.5, CPU, seeded()).any()


def test_random_tokens_become_more_along_a_clip_and_stay_in_the_codebook() -> None:
    ids = torch.full((256, 8, 4, 4), 3)
    assert corrupt(ids, 0.0, 512, seeded()) is ids
    changed = corrupt(ids, 0.4, 512, seeded())
    assert changed.min() >= 0 and changed.max() < 512
    shares = (changed != ids).float().mean((0, 2, 3))
    assert shares[0] < 0.05 < shares[3] < shares[7] < 0.3


def test_the_loss_counts_where_the_recipe_says() -> None:
    inputs, targets = torch.zeros(2, 3, 2, 2, dtype=torch.long), torch.zeros(2, 3, 2, 2, dtype=torch.long)
    targets[0, 1] = 1
    mask = torch.zeros(2, 3, 2, 2, dtype=torch.bool)
    mask[1, 2] = True
    masked = loss_weights(mask, inputs, targets, HistoryConfig())
    assert torch.equal(masked, mask.float() / 4)
    everywhere = loss_weights(mask, inputs, targets, HistoryConfig(loss_at="all", changed_weight=3))
    assert everywhere.sum() == pytest.approx(1)
    assert everywhere[0, 1, 0, 0] == pytest.approx(3 * everywhere[0, 0, 0, 0].item())


def test_pixels_that_change_count_as_often_as_the_recipe_says() -> None:
    target = torch.zeros(1, 3, 3, 4, 4)
    target[:, 2, 1, 0, 0] = 1
    prediction = torch.zeros_like(target)
    plain, weighted = (pixel_loss(prediction, target, weight).item() for weight in (1, 9))
    assert plain == pytest.approx(1 / target.numel())
    # One pixel of 48 has changed, in one of its three channels.
    assert weighted == pytest.approx(9 / 3 / (47 + 9))
    assert pixel_loss(target[:, :1], target[:, :1], 9) == 0


def test_a_batch_without_a_masked_token_trains_nothing_instead_of_failing() -> None:
    config = tiny_config()
    config.dynamics.history = HistoryConfig(complete=1)
    torch.manual_seed(0)
    loss = build_model(config)(random_video(), random_actions(), seeded()).loss
    assert loss.item() == 0 and torch.isfinite(loss)


def test_a_batch_without_a_masked_token_does_not_count_in_training_and_validation(root, monkeypatch) -> None:
    cfg = world_config(root)
    cfg.dynamics.history = HistoryConfig(complete=0.5, prefix=0.5)
    cfg.train.log_every, cfg.train.batch_size, cfg.train.validate_every = 4, 1, 4
    cfg.train.max_valid_size = 0
    outputs: list[tuple[bool, dict[str, float]]] = []
    real = GenieRedux.forward

    def forward(self, *arguments):
        output = real(self, *arguments)
        outputs.append((self.training, {name: float(value) for name, value in output.logs.items()}))
        return output

    monkeypatch.setattr(GenieRedux, "forward", forward)
    train(cfg)
    for split, is_training in (("train", True), ("validation", False)):
        (row,) = rows(cfg, split)
        for name in ("loss", "cross_entropy", "token_accuracy"):
            found = [logs[name] for training, logs in outputs if training == is_training]
            known = [value for value in found if not math.isnan(value)]
            assert 0 < len(known) < len(found) and row[name] == pytest.approx(sum(known) / len(known))


@pytest.mark.parametrize("loss_at", ["masked", "all"])
def test_the_accuracy_that_is_logged_counts_every_token_once(monkeypatch, loss_at) -> None:
    config = tiny_config()
    config.dynamics.history = HistoryConfig(prefix=0.5, loss_at=loss_at, changed_weight=4)
    model = build_model(config)
    real, expected = model.token_loss, []

    def token_loss(logits, targets, weight, *others):
        # Wrong are the tokens that change alone.
        is_changed = weight == weight.max()
        expected.append(1 - is_changed.sum().item() / (weight > 0).sum().item())
        ids = torch.where(is_changed, (targets + 1) % logits.shape[-1], targets)
        return real(torch.nn.functional.one_hot(ids, logits.shape[-1]).float(), targets, weight, *others)

    monkeypatch.setattr(model, "token_loss", token_loss)
    accuracy = model(random_video(), random_actions(), seeded()).logs["token_accuracy"].item()
    assert 0 < accuracy < 1 and accuracy == pytest.approx(expected[0])


def test_an_interval_without_any_target_has_no_loss(root, monkeypatch) -> None:
    cfg = world_config(root)
    monkeypatch.setattr("models.genie_redux.history_mask", lambda shape, *_: torch.zeros(shape, dtype=torch.bool))
    train(cfg)
    for row in rows(cfg, "train"):
        assert "loss" not in row and "token_accuracy" not in row and "grad_norm" in row


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({"complete": 0.9, "prefix": 0.9}, r"^dynamics\.history\.complete=0\.9: .*dynamics\.history\.prefix=0\.1"),
        ({"complete": 1}, r"^dynamics\.history\.loss_at=masked: .*dynamics\.history\.loss_at=all"),
    ],
)
def test_histories_that_cannot_be_are_one_line(root, history, message) -> None:
    cfg = world_config(root)
    cfg.dynamics.history = HistoryConfig(**history)
    with pytest.raises(FieldError, match=message):
        train(cfg)


@pytest.mark.parametrize("temporal", ["decoder", "none"])
def test_equal_frames_have_equal_token_ids_where_the_encoder_sees_one_at_a_time(temporal) -> None:
    config = tiny_config("tokenizer")
    config.tokenizer.temporal = temporal
    torch.manual_seed(0)
    tokenizer = build_model(config).eval()
    video = random_video()
    ids = tokenizer.encode(video)
    assert torch.equal(ids[:, 3:4], tokenizer.encode(video[:, 3:4]))
    assert torch.equal(ids.flip(1), tokenizer.encode(video.flip(1)))
    alone = torch.cat([tokenizer.decode(ids[:, t : t + 1]) for t in range(ids.shape[1])], dim=1)
    assert torch.allclose(alone, tokenizer.decode(ids), atol=1e-5) == (temporal == "none")


@pytest.mark.parametrize("temporal", ["decoder", "none"])
def test_frames_encoded_alone_stream_like_a_whole_rollout(temporal) -> None:
    config = tiny_config()
    config.tokenizer.temporal = temporal
    torch.manual_seed(0)
    model = build_model(config).eval()
    video, actions = random_video(), random_actions(5)
    state, frames = model.start(video[:, :2], actions[:, :1]), []
    for t in range(1, 5):
        frame, state = model.step(state, actions[:, t])
        frames.append(frame)
    at_once = model.sample(video[:, :2], actions, 4, SampleSettings("autoregressive", dream_length=1))
    torch.testing.assert_close(torch.stack(frames, dim=1), at_once, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temporal", ["decoder", "none"])
def test_a_tokenizer_of_single_frames_trains_and_resumes_exactly(root, temporal) -> None:
    cfg = training_config(root)
    cfg.tokenizer.temporal = temporal
    once = train(renamed(cfg, f"{temporal}_once", num_train_steps=4, save_model_every=0))
    train(renamed(cfg, f"{temporal}_twice", num_train_steps=2))
    assert_equal(
        weights(train(renamed(cfg, f"{temporal}_twice", num_train_steps=4, resume_ckpt="latest"))), weights(once)
    )


@pytest.mark.parametrize("kind", ["genie_redux_guided", "genie_redux"])
@pytest.mark.parametrize("width", [None, 48], ids=["the tokenizer's width", "another width"])
def test_added_actions_keep_the_width_and_stream_like_a_whole_rollout(kind, width) -> None:
    config = tiny_config(kind)
    config.dynamics.action_conditioning, config.dynamics.latent_embeddings = "add", True
    config.dynamics.dim = width or config.dynamics.dim
    torch.manual_seed(0)
    model = build_model(config).eval()
    assert model.dynamics.to_logits.in_features == config.dynamics.dim
    ids, actions = model.tokenizer.encode(random_video()), random_actions(8)
    none = torch.zeros_like(ids, dtype=torch.bool)
    at_once = model.dynamics(ids, none, actions, model.token_input(ids))
    other = model.dynamics(ids, none, (actions + 1) % 4, model.token_input(ids))
    assert (at_once - other).abs().max() > 1e-3
    state = model.start(random_video()[:, :2], actions[:, :1])
    _, state = model.step(state, actions[:, 1])
    assert torch.equal(state.ids[:, 2], at_once[:, 1].argmax(-1))


@pytest.mark.parametrize(("model", "joint"), [("tokenizer", True), ("genie_redux_guided", False), ("lam", False)])
def test_the_optimiser_that_suits_a_model_is_chosen_by_auto(model, joint) -> None:
    optimizer = make_optimizer(build_model(tiny_config(model)), OptimizerConfig(name="auto"))
    assert isinstance(optimizer, JointOptimizer) == joint


def test_a_clip_that_the_model_continues_keeps_its_first_frame() -> None:
    model, video, actions = tiny_model(), random_video(), random_actions()

    def loss(continued: float, num_frames: int) -> float:
        model.dynamics.config.history = HistoryConfig(complete=1, loss_at="all", continued=continued)
        return model(video[:, :num_frames], actions[:, : num_frames - 1], seeded()).loss.item()

    # The last frame of a clip is no history.
    assert loss(1, 2) == loss(0, 2)
    assert loss(1, 8) != loss(0, 8)


@pytest.mark.parametrize("tokens", ["likeliest", "expected"])
def test_a_continued_clip_is_what_play_draws(tokens) -> None:
    model, actions = tiny_model(), random_actions()
    model.dynamics.config.history_tokens = tokens
    model.dynamics.config.history = HistoryConfig(continued=1)
    ids = model.tokenizer.encode(random_video())[:, :-1]
    drawn, surplus = model._continued(ids, actions, seeded(), BatchShare.whole(len(ids)))
    assert (surplus is None) == (tokens == "likeliest")
    logits = model.dynamics(drawn, torch.zeros_like(ids, dtype=torch.bool), actions, model.token_input(drawn), surplus)
    is_drawn = (drawn != ids).flatten(2).any(dim=2)
    assert is_drawn.any() and not is_drawn[:, 0].any()
    assert torch.equal(logits[:, :-1].argmax(-1)[is_drawn[:, 1:]], drawn[:, 1:][is_drawn[:, 1:]])


@pytest.mark.parametrize("model", ["genie_redux_guided", "genie_redux"])
def test_muon_and_a_complete_history_resume_exactly(root, model) -> None:
    cfg = world_config(root, model)
    cfg.optimizer.name = "muon"
    cfg.dynamics.history = HistoryConfig(complete=0.5, prefix=0.5, loss_at="all", corruption=0.1, changed_weight=2)
    cfg.dynamics.history.continued = 0.5
    once = train(renamed(cfg, "once", num_train_steps=4, save_model_every=0))
    train(renamed(cfg, "twice", num_train_steps=2))
    assert_equal(weights(train(renamed(cfg, "twice", num_train_steps=4, resume_ckpt="latest"))), weights(once))


def test_a_model_of_the_published_recipe_is_fine_tuned_with_another(root) -> None:
    cfg = world_config(root)
    published = train(renamed(cfg, "published", num_train_steps=1))
    cfg.model_fpath, cfg.tokenizer_fpath = str(published), None
    cfg.dynamics.history = HistoryConfig(complete=1, loss_at="all")
    tuned = train(renamed(cfg, "tuned", num_train_steps=2))
    assert torch.load(tuned, weights_only=True)["config"]["dynamics"]["history"]["loss_at"] == "all"
