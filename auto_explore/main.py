"""Entry points of `python run.py auto_explore train|eval`."""

import logging
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from auto_explore.config import AutoExploreConfig
from auto_explore.src.agent import KIND, agent_of, read_agent
from auto_explore.src.checks import check_train_config
from auto_explore.src.dataset import AgentEpisode
from auto_explore.src.evaluation import test_episodes
from auto_explore.src.reward import WORLD_MODEL_REWARDS, Reward, load_reward
from auto_explore.src.run_context import RunContext, make_context
from auto_explore.src.trainer import FIXED, AgentTrainer
from auto_explore.src.world_model import checkpoint_path
from data_generation.data.errors import UNSET, FieldError, UserError, under
from data_generation.data.invocation import invocation_of
from models.tensor_file import digest
from training.agent.commands import AgentEvaluation, train_agent
from training.agent.testing import Tested
from training.agent_folder import AgentFolder
from training.run_record import ENVIRONMENTS, make_record, other_settings, overrides_to_repeat, repeating

logger = logging.getLogger(__name__)

# What `evaluate.yaml` sets for all runs.
_LENGTH = "collection.connector.generator_config.n_steps_max"
# Of the reward's settings: what an evaluation, which learns nothing, measures alike with any value.
_NO_MEASURE = ("collection.reward.batch_size", "collection.reward.learning_rate")


def train(cfg: AutoExploreConfig) -> Path:
    """Train an agent and return its folder.

    Runs in every process of a launcher alike, or alone. The user's mistakes are UserErrors.
    A run may be killed at any time: `common.resume=true` resumes from its last complete epoch, exactly.
    """
    check_train_config(cfg)
    return train_agent(cfg, KIND, FIXED, _training_context, _make_trainer)


def _training_context(cfg: AutoExploreConfig) -> RunContext:
    n_preds = max(cfg.collection.train.config.n_preds, cfg.collection.test.config.n_preds)
    return make_context(cfg.common, cfg.collection, cfg.world_model, n_preds)


def _make_trainer(cfg: AutoExploreConfig, context: RunContext, folder: AgentFolder) -> AgentTrainer:
    weights = checkpoint_path(cfg.world_model) if cfg.collection.reward.type in WORLD_MODEL_REWARDS else None
    facts = {"common.num_processes": context.num_processes}
    record = make_record(cfg, {"world_model_weights": weights}, facts)
    return AgentTrainer(context, cfg.training, cfg.evaluation, folder, record)


def evaluate(cfg: AutoExploreConfig) -> Path:
    """Let a trained agent play `common.epochs` times `num_episodes` episodes; returns the JSON file with the measures.

    Nothing is learned. Each episode becomes a GIF (`evaluation.n_gifs` of each epoch).
    """
    evaluation = AgentEvaluation(KIND, cfg)
    folder, run = evaluation.folder, evaluation.settings
    _ignore_usual_length(cfg, run)
    network, info = agent_of(read_agent(evaluation.path))
    config, test = cfg.collection.reward, cfg.collection.test
    uses_model = config.type in WORLD_MODEL_REWARDS
    keys = (*ENVIRONMENTS, "world_model.") if uses_model else ENVIRONMENTS
    with repeating(overrides_to_repeat(cfg, run, keys), folder.path.name):
        context = make_context(cfg.common, cfg.collection, cfg.world_model, test.config.n_preds)
        context.check_agent(info, evaluation.path)
    if context.num_processes > 1:
        problem = "an evaluation takes one process"
        raise FieldError("common.num_processes", UNSET, problem, "use {collection.test.num_envs}")
    network.to(context.device)
    reward = context.make_reward(test.config.n_preds)
    with closing(context.collector(test.num_envs, reward, folder.episodes, is_test=True)) as collector:

        def play(epoch: int) -> Tested[AgentEpisode]:
            # What a reward learns from a test's episodes is not for the next ones.
            _load_reward_of_run(cfg, folder, reward)
            return test_episodes(collector, network, test.config, cfg.common.seed + epoch, epoch)

        facts = {"epoch": info.epoch, **_facts_of_reward(cfg, folder, run)}
        return evaluation.run(context, facts, play, _lines_of_reward(facts, run.get("collection.reward.type")))


def _ignore_usual_length(cfg: AutoExploreConfig, run: dict[str, Any]) -> None:
    """Omit the length of its episodes from what is known of the run, unless the user has chosen another one."""
    invocation = invocation_of(cfg)
    if invocation.command and not any(text.startswith(f"{_LENGTH}=") for text in invocation.overrides):
        run.pop(_LENGTH, None)


def _facts_of_reward(cfg: AutoExploreConfig, folder: AgentFolder, run: dict[str, Any]) -> dict[str, Any]:
    """By what the agent is measured, and how that differs from its training, which warnings say, too."""
    kind = cfg.collection.reward.type
    if other_model := _other_world_model(cfg, folder, run):
        logger.warning("the world model is not that of the run: %s", other_model)
    if other_reward := _other_reward(cfg, run):
        logger.warning("the reward is not measured as in the run: %s", other_reward)
    return {
        "reward": kind,
        "world_model": str(checkpoint_path(cfg.world_model)) if kind in WORLD_MODEL_REWARDS else None,
        "other_world_model": other_model,
        "other_reward": other_reward,
    }


def _lines_of_reward(facts: dict[str, Any], trained_for: str | None) -> list[str]:
    """Of the summary. `trained_for`: the reward of the run, where that is known."""
    reward = facts["reward"]
    if trained_for not in (None, reward):
        reward += f" (trained for {trained_for}: collection.reward.type={trained_for} measures that)"
    return [f"reward        {reward}", *([f"world model   {facts['world_model']}"] if facts["world_model"] else [])]


def _other_world_model(cfg: AutoExploreConfig, folder: AgentFolder, run: dict[str, Any]) -> str:
    """In what the world model that rewards differs from the one that the run was trained with; "" for nothing.

    Weights are compared by content, and by place where the run's training state is gone.
    """
    if not {cfg.collection.reward.type, run.get("collection.reward.type")} <= set(WORLD_MODEL_REWARDS):
        return ""
    path, weights = checkpoint_path(cfg.world_model), None
    keys = ("world_model.root_dpath", "world_model.model_dname", "world_model.model_fname")
    before = Path(*(run[key] for key in keys if run.get(key)))
    with suppress(UserError):
        weights = ((folder.newest()[1].get("state") or {}).get("run") or {}).get("world_model_weights")
    if weights is not None:
        return f"'{path}' has other weights than '{before}' had" if weights != digest(path) else ""
    return f"'{path}' instead of '{before}'" if overrides_to_repeat(cfg, run, keys) else ""


def _other_reward(cfg: AutoExploreConfig, run: dict[str, Any]) -> str:
    """In which settings a reward of the run's type differs from the run's; "" for nothing, and for another type."""
    if run.get("collection.reward.type") != cfg.collection.reward.type:
        return ""
    compared = {key: value for key, value in run.items() if key not in _NO_MEASURE}
    return other_settings(cfg, compared, ("collection.reward.", "collection.test.config.n_preds"))


def _load_reward_of_run(cfg: AutoExploreConfig, folder: AgentFolder, reward: Reward) -> None:
    """Give the reward what it has learned in the run, if it learns.

    FieldError (of `collection`) if the run has learned another one, or if that is missing.
    """
    config, run = cfg.collection.reward, folder.settings()
    others = overrides_to_repeat(cfg, run, ("collection.reward.type", "collection.reward.normalize"))
    # What never changes needs nothing of the run, but for the random features that it has drawn.
    if reward.is_fixed and (others or config.type != "cnn-mse"):
        return
    with under("reward"):
        if others:
            problem = "the run was trained with another reward, and this one would know nothing"
            raise FieldError("type", config.type, problem, f"repeat {others}, or set {{type}}=none {{normalize}}=false")
        if not (folder.last.exists() or folder.previous.exists()):
            problem = f"what it learned in the run is missing: there is no '{folder.last}'"
            raise FieldError("type", config.type, problem, "restore that file, or measure by {type}=none")
        path, content = folder.newest()
        if (state := content.get("state")) is None:
            raise UserError(f"'{path}' holds no training state with what the reward learned: restore the file")
        load_reward(reward, state["ranks"][0]["reward"], config, path)
