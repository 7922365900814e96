"""Entry points of `python run.py agent57 train|eval`."""

from contextlib import closing
from pathlib import Path

from data_generation.data.errors import under
from external.agent57.checkpoint import KIND, read_agent57
from external.agent57.config import Agent57Config, Agent57TrainingConfig
from external.agent57.replay import PlayedEpisode
from external.agent57.setup import Context57, check_agent, check_test, check_training, make_actors, make_context
from external.agent57.testing import play_test
from external.agent57.trainer import FIXED, Agent57Trainer
from training.agent.commands import AgentEvaluation, train_agent
from training.agent.testing import Tested
from training.agent_folder import AgentFolder
from training.run_record import ENVIRONMENTS, make_record, overrides_to_repeat, repeating
from training.runtime import choose_precision


def train(cfg: Agent57Config) -> Path:
    """Train an agent and return its folder. The user's mistakes are UserErrors.

    A run may be killed at any time: `common.resume=true` resumes from its last checkpoint, exactly.
    """
    check_training(cfg.collection, cfg.training)
    return train_agent(cfg, KIND, FIXED, _training_context, _make_trainer)


def _training_context(cfg: Agent57Config) -> Context57:
    context = make_context(cfg.common, cfg.collection)
    with under("common"):
        context.amp_dtype = choose_precision(cfg.common.precision, context.device)
    return context


def _make_trainer(cfg: Agent57Config, context: Context57, folder: AgentFolder) -> Agent57Trainer:
    return Agent57Trainer(context, cfg.training, cfg.evaluation, folder, make_record(cfg, {}, {}))


def evaluate(cfg: Agent57Config) -> Path:
    """Let a trained agent play `common.epochs` times `num_episodes` episodes; returns the JSON file with the measures.

    Nothing is learned. Each episode becomes a GIF (`evaluation.n_gifs` of each epoch).
    """
    evaluation = AgentEvaluation(KIND, cfg)
    stored = read_agent57(evaluation.path)
    info = stored.info
    check_test(cfg.collection, info.family.num_policies)
    with repeating(overrides_to_repeat(cfg, evaluation.settings, ENVIRONMENTS), evaluation.folder.path.name):
        context = make_context(cfg.common, cfg.collection)
        check_agent(context, info, evaluation.path)
    networks = stored.load().eval().requires_grad_(False).to(context.device)
    config = Agent57TrainingConfig(network=info.network, family=info.family, intrinsic=info.intrinsic)
    with closing(make_actors(context, networks, config, evaluation.folder.episodes, is_test=True)) as actors:

        def play(epoch: int) -> Tested[PlayedEpisode]:
            actors.curiosity.set_moments(info.errors, info.distances)
            return play_test(actors, cfg.collection.test.num_episodes, cfg.common.seed + epoch, epoch)

        return evaluation.run(context, {"epoch": info.epoch}, play)
