"""Command lines of runs that take a second, for all drills: the only place that knows their configuration keys."""

from benchmarks.drills.tiny_env import GAME, SIZE

DATASET = "gymnasium_v0.0.0_drill"
ENVIRONMENT_GLOB = "data_generation/datasets/*/*"
# Of agents that play: few steps of the drills' game.
_AGENT: dict[str, object] = {
    "common.device": "cpu",
    "common.precision": "fp32",
    "collection.games": f"[{GAME}]",
    "collection.connector.name": "gymnasium",
    "collection.connector.n_skip_frames": 1,
    "collection.connector.valid_action_combos": "[]",
    "collection.connector.image_size": SIZE,
    "collection.connector.generator_config.n_steps_max": 11,
    "evaluation.every": 2,
    "evaluation.n_gifs": 1,
    "wandb.mode": "disabled",
}
_SIZES = {"dim": 16, "num_blocks": 1, "heads": 2, "dim_head": 8}


def generate(sessions: int = 8, workers: int = 1, **keys: object) -> list[str]:
    """Episodes of 25 frames of 16×16, below data_generation/datasets/<DATASET>."""
    connector = "config.connector"
    given = {
        f"{connector}.game": GAME,
        f"{connector}.image_size": SIZE,
        f"{connector}.generator_config.n_sessions": sessions,
        f"{connector}.generator_config.n_workers": workers,
        "config.dname": "drill",
    }
    return ["generate", "config=gymnasium/any", *_overrides(given, keys)]


def train(model: str, steps: int = 4, **keys: object) -> list[str]:
    """`model`: tokenizer | lam | genie_redux | genie_redux_guided; into checkpoints/<model>/drill."""
    given: dict[str, object] = {"model": model, "device": "cpu", "precision": "fp32"}
    for part in ("tokenizer", "lam", "dynamics"):
        given |= {f"{part}.{name}": value for name, value in _SIZES.items()}
    given |= {
        "tokenizer.image_size": SIZE,
        "tokenizer.codebook_size": 16,
        "tokenizer.codebook_dim": 8,
        "tokenizer.dead_code_threshold": 0.03,
        "lam.num_actions": 3,
        "lam.codebook_dim": 8,
        "dynamics.max_seq_len": 128,
        "train.dataset_name": DATASET,
        "train.batch_size": 2,
        "train.grad_accum": 1,
        "train.n_data_workers": 0,
        "train.num_frames": 4,
        "train.num_train_steps": steps,
        "train.validate_every": 0,
        "train.save_model_every": 2,
        "train.log_every": 1,
        "train.sample_num_frames": 2,
        "train.n_total_samples": 2,
        "train.max_valid_size": 2,
        "train.wandb_mode": "disabled",
        "train.wandb_name": "drill",
        "optimizer.linear_warmup_total_iters": 2,
    }
    if model.startswith("genie_redux"):
        given["tokenizer_fpath"] = "checkpoints/tokenizer/drill/model-4.pt"
    preset = "tokenizer" if model == "tokenizer" else "genie_redux_guided"
    return ["genie_redux", "train", f"config={preset}", *_overrides(given, keys)]


def evaluate(model: str = "genie_redux_guided", step: int = 4, **keys: object) -> list[str]:
    given: dict[str, object] = {
        "model": model,
        "device": "cpu",
        "precision": "fp32",
        "eval.dataset_name": DATASET,
        "eval.model_fpath": f"checkpoints/{model}/drill/model-{step}.pt",
        "eval.num_frames": 4,
        "eval.seq_step": 4,
        "eval.sample_num_frames": 2,
        "eval.inference_steps": 2,
        "eval.n_total_samples": 2,
        "eval.n_gifs": 1,
        "eval.n_data_workers": 0,
        "eval.eval_control": "false",
        "eval.batch_size": 2,
        "eval.fid_weights": "none",
    }
    return ["genie_redux", "eval", "config=genie_redux_guided", *_overrides(given, keys)]


def explore(mode: str = "train", epochs: int = 2, reward: str = "rnd", **keys: object) -> list[str]:
    given: dict[str, object] = {
        **_AGENT,
        "common.epochs": epochs,
        "collection.reward.type": reward,
        "collection.reward.batch_size": 4,
        "collection.train.num_envs": 1,
        "collection.train.config.num_steps": 24,
        # The same probability in every epoch: a run of two epochs is the beginning of one of three.
        "collection.train.config.min_epsilon": 0.1,
        "collection.test.num_envs": 1,
        "collection.test.config.num_episodes": 1,
        "training.replay_steps": 60,
        "training.actor_critic.encoder": "conv",
        "training.actor_critic.batch_num_samples": 2,
        "training.actor_critic.steps_per_epoch": 1,
        "training.actor_critic.burn_in": 2,
        "training.actor_critic.num_steps": 3,
    }
    return ["auto_explore", mode, *_overrides(given, keys)]


def agent57(mode: str = "train", epochs: int = 2, **keys: object) -> list[str]:
    given: dict[str, object] = {
        **_AGENT,
        "common.epochs": epochs,
        "collection.train.num_envs": 1,
        "collection.train.num_steps": 24,
        "collection.test.num_envs": 1,
        "collection.test.num_episodes": 1,
        "training.network.channels": "[4,4,4]",
        "training.network.lstm": 8,
        "training.network.head": 8,
        "training.network.rnd": 8,
        "training.family.num_policies": 4,
        "training.replay.num_steps": 60,
        "training.replay.burn_in": 2,
        "training.replay.sequence": 4,
        "training.replay.period": 2,
        "training.replay.min_steps": 20,
        "training.learner.batch_size": 2,
        "training.learner.updates_per_epoch": 1,
    }
    return ["agent57", mode, *_overrides(given, keys)]


def _overrides(given: dict[str, object], keys: dict[str, object]) -> list[str]:
    """`a__b=1` is the key a.b."""
    merged = {**given, **{key.replace("__", "."): value for key, value in keys.items()}}
    return [f"{key}={value}" for key, value in merged.items()]
