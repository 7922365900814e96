"""Training: what a step does, and several processes equal one."""

from pathlib import Path

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from benchmarks.presets import composed
from models.checkpoint import load_model
from models.tokenizer import Tokenizer
from tests.training_helpers import assert_equal, renamed, rows, tiny_config, weights, world_config
from training import main, run_folder
from training.config import GenieReduxConfig, OptimizerConfig
from training.main import run_dpath, train
from training.optimizer import learning_rate, make_optimizer, schedule_notes

# ---- one step -------------------------------------------------------------------------------------------------------


def test_gradients_are_clipped_once_per_optimizer_step_not_inside_accumulation(root, monkeypatch):
    clipped = []

    def clip(self, parameters, max_norm, norm_type=2):
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        clipped.append(norm.item())
        return norm

    monkeypatch.setattr("accelerate.Accelerator.clip_grad_norm_", clip)
    cfg = tiny_config(root)
    cfg.optimizer.max_grad_norm = 1e-3
    whole = train(renamed(cfg, "whole", num_train_steps=2, batch_size=8))
    parts = train(renamed(cfg, "parts", num_train_steps=2, batch_size=2, grad_accum=4))
    assert len(clipped) == 4  # 2 runs of 2 steps; 10 if every micro-batch were clipped
    assert clipped[:2] == pytest.approx(clipped[2:], rel=1e-3)
    for name, value in weights(parts).items():
        torch.testing.assert_close(value, weights(whole)[name], atol=2e-4, rtol=1e-3)


def test_the_environment_does_not_change_how_many_batches_make_a_step(root, monkeypatch):
    cfg = tiny_config(root)
    cfg.train.num_train_steps, cfg.train.batch_size, cfg.train.grad_accum = 2, 2, 4
    plain = weights(train(renamed(cfg, "plain")))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    assert_equal(weights(train(renamed(cfg, "variable"))), plain)


def test_learning_rate_warms_up_falls_as_a_cosine_and_stays():
    config = OptimizerConfig(linear_warmup_total_iters=10, cosine_annealing_t_max=100)
    rates = [learning_rate(config, step, 5001) for step in (0, 5, 10, 60, 110, 5000)]
    assert rates == pytest.approx([5e-5, 7.5e-5, 1e-4, 7.5e-5, 5e-5, 5e-5])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_learning_rate_below_the_least_one_stays_as_it_is(schedule):
    config = OptimizerConfig(learning_rate=1e-5, cosine_annealing_min_lr=5e-5, linear_warmup_total_iters=10)
    assert [note.partition("=")[0] for note in schedule_notes(config, 10)] == ["optimizer.cosine_annealing_min_lr"]
    config.schedule, config.cosine_annealing_t_max = schedule, 100
    assert {learning_rate(config, step, 150) for step in range(10, 150)} == {1e-5}


def test_wsd_keeps_the_learning_rate_and_falls_linearly_at_the_end():
    config = OptimizerConfig(schedule="wsd", wsd_decay=0.4, linear_warmup_total_iters=10, cosine_annealing_t_max=100)
    rates = [learning_rate(config, step, 5001) for step in (0, 10, 40, 70, 90, 110, 5000)]
    assert rates == pytest.approx([5e-5, 1e-4, 1e-4, 1e-4, 7.5e-5, 5e-5, 5e-5])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_without_a_length_of_its_own_the_schedule_is_as_long_as_the_run(schedule):
    """So that a shorter or a longer run needs no other setting."""
    config = OptimizerConfig(schedule=schedule, linear_warmup_total_iters=10)
    for num_steps in (50, 400):
        config.cosine_annealing_t_max = num_steps - 10
        expected = [learning_rate(config, step, 10**6) for step in range(num_steps + 5)]
        config.cosine_annealing_t_max = None
        assert [learning_rate(config, step, num_steps) for step in range(num_steps + 5)] == expected
        assert expected[num_steps - 1] < 1.1 * config.cosine_annealing_min_lr < expected[num_steps // 2]


def test_a_warm_up_that_is_longer_than_the_run_is_said():
    config = OptimizerConfig(linear_warmup_total_iters=10)
    assert schedule_notes(config, 10) == []
    (note,) = schedule_notes(config, 9)
    assert note.startswith("optimizer.linear_warmup_total_iters=10 is longer than the run (train.num_train_steps=9)")


def test_a_run_that_ends_within_the_warm_up_is_all_warm_up():
    config = OptimizerConfig(linear_warmup_total_iters=10, cosine_annealing_t_max=None)
    assert [learning_rate(config, step, 4) for step in (0, 3)] == pytest.approx([5e-5, 6.5e-5])


@pytest.mark.parametrize("preset", ["demo", "demo_tokenizer", "exploration", "demo recipe=published"])
def test_the_small_presets_follow_the_number_of_steps(preset):
    assert composed("genie_redux train", *f"config={preset}".split()).optimizer.cosine_annealing_t_max is None
    assert (
        composed("genie_redux train", "config=genie_redux_guided_pretrain", "recipe=tuned").optimizer.schedule == "wsd"
    )


def test_vectors_are_not_decayed_and_frozen_parameters_not_optimised():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 1))
    model[2].requires_grad_(False)
    groups = make_optimizer(model, OptimizerConfig(weight_decay=0.1)).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.1, 1), (0.0, 3)]


def test_training_learns_and_leaves_the_tokenizer_alone(root):
    cfg = renamed(world_config(root), "run", num_train_steps=30)
    path = train(cfg)
    losses = [row["loss"] for row in rows(cfg, "train")]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert_equal(weights(path.parent / "tokenizer.pt"), weights(Path(cfg.tokenizer_fpath)))
    embedding = "dynamics.action_embedding.weight"
    fresh = train(renamed(cfg, "fresh", num_train_steps=1))
    assert not torch.equal(weights(path)[embedding], weights(fresh)[embedding])


def test_use_decoder_loss_adds_the_pixel_error_of_the_prediction(root):
    cfg = renamed(world_config(root), "run", use_decoder_loss=True)
    assert load_model(train(cfg)).config.dynamics.decoder_loss_weight == 1
    first = rows(cfg, "train")[0]
    assert first["loss"] == pytest.approx(first["cross_entropy"] + first["decoder_loss"], rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), 3e38])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(root, monkeypatch, bad):
    cfg = renamed(tiny_config(root), "run", num_train_steps=6, log_every=6, save_model_every=2)
    real, calls = Tokenizer.forward, []

    def forward(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            self.to_pixels.rest.bias.data.fill_(bad)
        return real(self, *arguments)

    monkeypatch.setattr(Tokenizer, "forward", forward)
    with pytest.raises(ValueError, match=r"learning_rate.*not finite at step 3") as error:
        train(cfg)
    assert "\n" not in str(error.value)
    assert run_folder.RunFolder(run_dpath(cfg)).steps() == [2]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tokenizer", "genie_redux_guided", "genie_redux"])
def test_compiled_training_equals_eager(root, model):
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    eager = weights(train(renamed(cfg, "eager", num_train_steps=2)))
    cfg.compile = True
    compiled = weights(train(renamed(cfg, "compiled", num_train_steps=2)))
    for name in eager:
        torch.testing.assert_close(compiled[name], eager[name], atol=1e-3, rtol=1e-3)


def test_bf16_training_keeps_float32_weights(root):
    cfg = renamed(world_config(root), "run", num_train_steps=2)
    cfg.precision = "bf16"
    assert {value.dtype for value in weights(train(cfg)).values()} == {torch.float32}


# ---- several processes ----------------------------------------------------------------------------------------------


def launch(cfg: GenieReduxConfig, entry: str, processes: int = 2) -> None:
    """Run `training.main:<entry>` in processes of torch's elastic launcher, as the launcher does."""
    config = LaunchConfig(1, 1, processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    elastic_launch(config, run_in_process)(cfg, entry)


def run_in_process(cfg: GenieReduxConfig, entry: str) -> None:
    getattr(main, entry)(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tokenizer", "genie_redux"])
def test_two_processes_equal_one_with_twice_the_batch(root, model):
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    cfg.train.num_train_steps, cfg.train.validate_every = 3, 3
    both = renamed(cfg, "both", batch_size=2)
    launch(both, "train")
    one = renamed(cfg, "one", batch_size=4)
    alone = weights(train(one))
    together = weights(run_dpath(both) / "model-3.pt")
    if model == "tokenizer":  # world models draw different masks in each process
        for name in alone:
            torch.testing.assert_close(together[name], alone[name], atol=1e-4, rtol=1e-3)
        ours, theirs = rows(both, "validation")[0], rows(one, "validation")[0]
        assert ours["psnr"] == pytest.approx(theirs["psnr"], rel=1e-4)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert [row["step"] for row in rows(both, "train")] == [1, 2, 3]
    resumed = renamed(both, "both", num_train_steps=5, resume_ckpt="latest")
    launch(resumed, "train")
    straight = renamed(both, "straight", num_train_steps=5)
    launch(straight, "train")
    for name, value in weights(run_dpath(straight) / "model-5.pt").items():
        torch.testing.assert_close(weights(run_dpath(both) / "model-5.pt")[name], value, atol=1e-6, rtol=1e-5)
