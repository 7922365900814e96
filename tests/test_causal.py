"""The causal transformer: what a prediction sees, sampling with a KV cache, training, evaluation, refused uses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from auto_explore.config import WorldModelConfig
from auto_explore.src.world_model import load_world_model
from benchmarks.operations import operation_counter
from benchmarks.presets import composed
from data_generation.data.errors import FieldError
from models.base import Rollout
from models.causal import CausalWorldModel
from models.config import SampleSettings
from models.construct_model import build_model
from play.loading import load_playable
from tests.model_helpers import random_actions, random_video, tiny_config, tiny_model
from tests.training_helpers import (
    DATASET,
    assert_equal,
    renamed,
    rows,
    save_fresh,
    weights,
    world_config,
    write_dataset,
)
from tests.training_helpers import tiny_config as training_config
from training.config import GenieReduxConfig
from training.main import evaluate, train

MODEL = "causal_guided"
AUTOREGRESSIVE = SampleSettings("autoregressive")


def model_of(max_frames: int = 11) -> CausalWorldModel:
    config = tiny_config(MODEL)
    config.dynamics.max_seq_len = 16 * max_frames
    torch.manual_seed(0)
    model = build_model(config).eval()
    assert isinstance(model, CausalWorldModel)
    return model


def random_ids(num_frames: int = 4) -> Tensor:
    return torch.randint(32, (2, num_frames, 4, 4), generator=torch.Generator().manual_seed(3))


# ---- what a prediction sees -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_token_depends_on_all_tokens_before_it_and_on_none_after() -> None:
    model, ids, actions = model_of(), random_ids(), random_actions(3)
    whole = model.dynamics(ids, actions).flatten(1, 3)
    # Places count from the second frame's first token, the first one that is predicted.
    for place in (0, 5, 15, 16, 40):
        changed = ids.clone()
        flat = changed.view(2, -1)
        flat[:, 16 + place] = (flat[:, 16 + place] + 1) % 32
        other = model.dynamics(changed, actions).flatten(1, 3)
        torch.testing.assert_close(other[:, : place + 1], whole[:, : place + 1])
        differs = (other - whole).abs().amax(dim=(0, 2)) > 1e-6
        assert differs[place + 1 :].all() and not differs[: place + 1].any()


@torch.no_grad()
def test_an_action_changes_the_frame_that_it_leads_to_and_those_after() -> None:
    model, ids, actions = model_of(), random_ids(), random_actions(3)
    changed = actions.clone()
    changed[:, 1] = (changed[:, 1] + 1) % 5
    whole, other = model.dynamics(ids, actions), model.dynamics(ids, changed)
    torch.testing.assert_close(other[:, :1], whole[:, :1])
    assert ((other - whole).abs().amax(dim=-1) > 1e-6)[:, 1:].all()


def test_only_the_transformer_learns_and_all_of_it() -> None:
    model = tiny_model(MODEL).train()
    assert not model.tokenizer.training
    model(random_video(), random_actions()).loss.backward()
    assert all(p.grad is not None for p in model.dynamics.parameters())
    assert all(p.grad is None for p in model.tokenizer.parameters())


def test_recomputed_activations_give_the_same_gradients() -> None:
    gradients = []
    for mode in ("none", "selective", "full"):
        model = tiny_model(MODEL).train()
        model.dynamics.config.gradient_checkpointing = mode
        model(None, random_actions(3), ids=random_ids()).loss.backward()
        gradients.append([p.grad for p in model.dynamics.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])


# ---- sampling -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_cached_sampling_takes_the_likeliest_token_of_the_whole_sequence_each_time() -> None:
    model, video, actions = model_of(), random_video(3), random_actions(5)
    made = model.sample(video, actions, 3, AUTOREGRESSIVE)
    ids = model.tokenizer.encode(video)
    for number in range(3, 6):
        ids = torch.cat([ids, torch.zeros_like(ids[:, :1])], dim=1)
        for place in range(16):
            logits = model.dynamics(ids, actions[:, :number])[:, -1].flatten(1, 2)
            ids[:, -1].view(2, -1)[:, place] = logits[:, place].argmax(dim=-1)
    torch.testing.assert_close(made, model.tokenizer.decode(ids)[:, 3:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("num_prime", [1, 3])
def test_streaming_equals_sampling(num_prime: int) -> None:
    model, video, actions = model_of(), random_video(num_prime), random_actions(num_prime + 3)
    state, frames = model.start(video, actions[:, : num_prime - 1]), []
    for action in actions[:, num_prime - 1 :].unbind(dim=1):
        frame, state = model.step(state, action)
        frames.append(frame)
    assert torch.equal(torch.stack(frames, dim=1), model.sample(video, actions, 4, AUTOREGRESSIVE))


@torch.no_grad()
def test_a_full_history_loses_its_older_half_as_if_play_had_started_with_the_other() -> None:
    config = tiny_config(MODEL)
    config.dynamics.max_seq_len, config.tokenizer.temporal = 16 * 4, "none"
    model, video, actions = build_model(config).eval(), random_video(4), random_actions(9)
    full, half = model.start(video, actions[:, :3]), model.start(video[:, 2:], actions[:, 2:3])
    assert full.ids.shape[1] == full.window == 4
    frame, longer = model.step(full, actions[:, 3])
    assert torch.equal(frame, model.step(half, actions[:, 3])[0]) and longer.ids.shape[1] == 3
    # A state is a value: the one before can be continued again.
    assert torch.equal(frame, model.step(full, actions[:, 3])[0])
    # So any number of frames can be sampled.
    assert model.sample(video[:, :1], actions, 9, AUTOREGRESSIVE).shape[1] == 9


@torch.no_grad()
def test_a_clip_does_not_depend_on_seeds_nor_on_its_neighbours() -> None:
    model, video, actions = model_of(), random_video(), random_actions()
    rollout = Rollout(2, 4, AUTOREGRESSIVE)
    made = [model.predict(video, actions, rollout, [torch.Generator().manual_seed(n)] * 2).frames for n in (0, 1)]
    assert torch.equal(*made)
    alone = model.predict(video[:1], actions[:1], rollout, [torch.Generator()]).frames
    torch.testing.assert_close(alone, made[0][:1], atol=1e-5, rtol=1e-5)


def test_frames_beyond_the_longest_history_are_one_line() -> None:
    model = model_of(max_frames=3)
    model(None, random_actions(3), ids=random_ids(4))
    with pytest.raises(FieldError, match=r"^dynamics\.max_seq_len=48: .*use at most 4 frames"):
        model(None, random_actions(4), ids=random_ids(5))


# ---- training -------------------------------------------------------------------------------------------------------


def test_the_loss_falls_on_clips_that_repeat() -> None:
    model = model_of().train()
    ids, actions = random_ids(2).repeat(1, 3, 1, 1), random_actions(5)
    optimizer = torch.optim.AdamW(model.dynamics.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        output = model(None, actions, ids=ids)
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.2 * losses[0] and output.logs["token_accuracy"] > 0.95


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resuming_equals_never_having_stopped(root: Path, optimizer: str) -> None:
    cfg = world_config(root, MODEL)
    cfg.optimizer.name, cfg.train.validate_every = optimizer, 2
    once = train(renamed(cfg, "once", num_train_steps=4))
    assert once.parent.parent.name == MODEL
    train(renamed(cfg, "twice", num_train_steps=2))
    resumed = renamed(cfg, "twice", num_train_steps=4, resume_ckpt="latest")
    assert_equal(weights(train(resumed)), weights(once))
    (row, last) = rows(resumed, "validation")
    assert {"loss", "token_accuracy", "psnr", "copy_last_psnr"} <= row.keys() and last["step"] == 4


def test_cached_token_ids_change_no_weight(root: Path) -> None:
    cfg = world_config(root, MODEL)
    plain = train(renamed(cfg, "plain"))
    assert_equal(weights(train(renamed(cfg, "cached", enable_cache=True))), weights(plain))


def test_the_demo_preset_trains_resumes_and_evaluates_it(tmp_path: Path) -> None:
    """Though its recipe has settings of MaskGIT."""
    write_dataset(tmp_path, sessions=6, size=64)
    data = ("root_dpath", str(tmp_path)), ("name", DATASET)
    places = [f"{part}.dataset_{name}={value}" for part in ("train", "eval") for name, value in data]
    places += [f"train.save_root_dpath={tmp_path / 'checkpoints'}", f"eval.save_root_dpath={tmp_path / 'results'}"]
    tokenizer = composed("genie_redux train", "config=demo_tokenizer")
    path = save_fresh(tmp_path / "tokenizer" / "model-7.pt", tokenizer)
    sizes = ("train.n_total_samples=1", "train.max_valid_size=1", "train.num_frames=4", "eval.n_total_samples=1")
    sizes += ("eval.num_frames=3", "eval.sample_num_frames=1", "eval.delta_psnr_horizon=1", "eval.eval_lite0=false")
    sizes += ("train.batch_size=1", "eval.batch_size=1")
    more = ("eval.fid_weights=none", "eval.action_following_steps=0", f"tokenizer_fpath={path}", *sizes)
    settings = ("config=demo", f"model={MODEL}", "device=cpu", "train.wandb_mode=disabled", *places, *more)
    for steps in (1, 2):
        last = train(composed("genie_redux train", *settings, f"train.num_train_steps={steps}"))
    assert last.name == "model-2.pt"
    found = evaluate(composed("genie_redux eval", *settings, f"eval.model_fpath={last}"))
    assert found.name == "replicate_autoregressive"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder_loss_weight": 1.0}, r"^dynamics\.decoder_loss_weight=1\.0: is for MaskGIT dynamics, "),
        (
            {"history.corruption": 0.1},
            r"^dynamics\.history\.corruption=0\.1: .* set dynamics\.history\.corruption=0\.0",
        ),
        ({"history.continued": 0.1}, r"^dynamics\.history\.continued=0\.1: "),
    ],
)
def test_settings_of_maskgit_that_would_be_ignored_are_refused(settings: dict[str, object], message: str) -> None:
    config = tiny_config(MODEL)
    for name, value in settings.items():
        part = config.dynamics.history if name.startswith("history.") else config.dynamics
        setattr(part, name.removeprefix("history."), value)
    with pytest.raises(FieldError, match=message):
        build_model(config)


# ---- evaluation -----------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluation(root: Path) -> GenieReduxConfig:
    cfg = training_config(root, MODEL)
    path = save_fresh(root / MODEL / "model-7.pt", cfg)
    measures = {"inference_method": "autoregressive", "drift_frames": 14, "n_drift_clips": 2}
    return replace(cfg, eval=replace(cfg.eval, model_fpath=str(path), **measures))


def test_an_evaluation_has_the_measures_of_a_world_model(evaluation: GenieReduxConfig) -> None:
    evaluation.eval.action_following_steps = 2
    folder = evaluate(evaluation)
    # One frame at a time, whatever `dream_length` is.
    assert folder.parts[-3:] == (MODEL, "toy_v0.0.0", "replicate_autoregressive")
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    wanted = {"psnr", "ssim", "delta_psnr", "action_following", "tokenizer_psnr", "drift_psnr_14", "copy_last_psnr"}
    assert wanted <= metrics.keys() and all(metrics[name] == metrics[name] for name in wanted)
    # One frame more than the longest history is streamed.
    assert evaluation.dynamics.max_seq_len // 16 < 2 + 14
    evaluation.eval.action_to_take = 1
    assert evaluate(evaluation).name == "control_1_LEFT_autoregressive"


def test_sampling_all_frames_at_once_is_refused(evaluation: GenieReduxConfig) -> None:
    evaluation.eval.inference_method = "one_go"
    message = r"^eval\.inference_method=one_go: is not for model=causal_guided; set eval\.inference_method=autoregr"
    with pytest.raises(FieldError, match=message):
        evaluate(evaluation)


# ---- refused uses ---------------------------------------------------------------------------------------------------


def test_play_and_autoexplore_refuse_the_model_and_say_what_to_give(evaluation: GenieReduxConfig) -> None:
    path = Path(str(evaluation.eval.model_fpath))
    reason = "holds a causal_guided, which is only trained and evaluated; give the model-<step>.pt of a genie_redux"
    with pytest.raises(FieldError, match=f"^model_fpath=.*{reason}"):
        load_playable(path)
    with pytest.raises(FieldError, match=f"^model_fname=.*{reason}"):
        load_world_model(WorldModelConfig(root_dpath=str(path.parent.parent), model_dname=path.parent.name), 1)


# ---- the benchmark's count of operations ----------------------------------------------------------------------------


def test_the_operations_of_its_attention_are_counted() -> None:
    """PyTorch's counter leaves fused attention on CPU out."""
    model = tiny_model(MODEL)
    config, num_places = model.dynamics.config, 4 * 16 - 1
    linear = sum(p.numel() for layer in model.dynamics.layers for p in layer.parameters() if p.ndim == 2)
    logits = model.dynamics.to_logits.weight.numel() * 3 * 16
    attention = 2 * config.num_blocks * num_places**2 * config.heads * config.dim_head
    with operation_counter() as counter, torch.no_grad():
        model.dynamics(random_ids(), random_actions(3))
    assert counter.get_total_flops() == 2 * 2 * (linear * num_places + logits + attention)
    with operation_counter() as counter:
        model.dynamics(random_ids(), random_actions(3)).sum().backward()
    # The gradients take two more of each product, and fused attention computes its scores again.
    assert counter.get_total_flops() == 2 * 2 * (3 * (linear * num_places + logits) + 3.5 * attention)
