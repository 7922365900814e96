"""What all visitors share: the model, the episodes and levels to start from, the game, and who else can act."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data_generation.data.data import Environment
from data_generation.data.errors import FieldError, UserError, under
from data_generation.data.number_ranges import NumberRanges
from data_generation.generator.connector_base import Connector, EnvironmentSpec
from data_generation.generator.levels import Level
from models.checkpoint import LoadedModel, load_super_resolution
from models.genie_redux import GenieRedux
from models.super_resolution import SuperResolution
from play.agents import Actor, random_policies, trained_policy
from play.batching import Simulator, to_uint8
from play.config import PlayConfig
from play.game import listed_levels, recorded_game
from play.loading import SHIPPED_LEVEL, load_playable, model_path
from play.starts import Start, episode_start, frame_shape_of, misfit
from play.viewer import Library
from training.measures.counterfactuals import recorded_connector

# Recorded actions that a model with latent ones follows.
_MAX_INFERRED = 120
_REST = ("NOOP", "UP")


@dataclass(frozen=True)
class LoadedGame:
    """The real game of the model: how it is made, and its levels."""

    connector: Connector
    levels: list[Level]


class Playground:
    """Loads what the configuration names. FieldErrors of `PlayConfig` where the model cannot be played."""

    def __init__(self, config: PlayConfig):
        self.config = config
        loaded = _load(config)
        self.model = loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.frame_shape = frame_shape_of(self.model)
        self.simulator = Simulator(self.model, config.window)
        self.enlarger = self._load_enlarger()
        self.is_guided = self.model.takes_actions
        self.game_actions = list(loaded.config.action_names)
        latent = [f"latent_{i}" for i in range(self.model.num_actions)]
        self.action_names = self.game_actions if self.is_guided else latent
        self.library = Library(config)
        self.environments = [
            environment
            for environment in self.library.environments()
            if environment.num_episodes and not misfit(environment, self.model, self.game_actions)
        ]
        self.levels = loaded.config.levels
        # By number, those that somebody has asked for: an emulator takes seconds, and comes to the same frames.
        self.level_starts: dict[int, Start] = {}
        self._connectors: dict[int, Connector] = {}
        self.game, self.no_game = self._find_game(loaded)
        self.policies = self._make_policies(loaded)
        self.idle_action = self._idle_action()

    def _load_enlarger(self) -> SuperResolution | None:
        if self.config.super_resolution_fpath is None:
            return None
        with under("", path="super_resolution_fpath"):
            model = load_super_resolution(Path(self.config.super_resolution_fpath), self.model.tokenizer.config)
        return model.to(next(self.model.parameters()).device)

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width of the model's frames as they are shown."""
        size = self.enlarger.config.image_size if self.enlarger else self.frame_shape[1]
        return size, size

    @torch.no_grad()
    def enlarge(self, frame: np.ndarray) -> np.ndarray:
        """A frame (C, h, w) uint8 of the model as it is shown: (C, H, W) uint8."""
        if self.enlarger is None:
            return frame
        video = torch.tensor(frame, device=next(self.enlarger.parameters()).device)[None, None].float() / 255
        return to_uint8(self.enlarger.enlarge(video)[0])[0]

    def _find_game(self, loaded: LoadedModel[GenieRedux]) -> tuple[LoadedGame | None, str]:
        """The game of the levels, or why there is none: that of the first environment that can be played here."""
        problems = []
        for environment in range(len(self.environments)) or [None]:
            try:
                connector = self._model_game(loaded) if environment is None else self.connector(environment)
                games = connector.select().games
                game = next((game for game in games if game in loaded.config.levels), games[0])
                return LoadedGame(connector, listed_levels(connector, game, loaded.config.levels.get(game, ""))), ""
            except UserError as error:
                problems.append(str(error))
        return None, problems[0]

    def _model_game(self, loaded: LoadedModel[GenieRedux]) -> Connector:
        with under("play"):
            return recorded_game(loaded.config, self.config.game)

    def connector(self, environment: int | None) -> Connector:
        """The game with the settings that an environment was recorded with; None = the game of the levels.

        Always the same object. It may start a process: call it in a thread. UserError where there is no such game here.
        """
        if environment is None:
            if self.game is None:
                raise UserError(f"the game is not available: {self.no_game}")
            return self.game.connector
        if environment not in self._connectors:
            # Another visitor's thread may make it, too: the first one counts.
            self._connectors.setdefault(environment, recorded_connector(self.environments[environment].info))
        return self._connectors[environment]

    def _make_policies(self, loaded: LoadedModel[GenieRedux]) -> dict[str, Actor]:
        config = loaded.config
        spec = EnvironmentSpec(self.action_names, self.frame_shape, config.roi_table, config.n_skip_frames)
        policies = random_policies(spec)
        checkpoint = self.config.agent_fpath
        if checkpoint is not None:
            if not self.is_guided:
                remedy = "leave it out, or play a guided model"
                raise FieldError("agent_fpath", checkpoint, "the model's actions are latent ones", remedy)
            policies["agent"] = trained_policy(Path(checkpoint), spec)
        return policies

    def is_known(self, game: str, instance: int) -> bool:
        """Whether the model was trained on a level; True where it does not say on which."""
        return not self.levels or instance in NumberRanges(self.levels.get(game, ""))

    @property
    def first_level(self) -> int:
        """The number, in the game's list, of the level that the page starts at."""
        levels = self.game.levels if self.game else []
        known = [i for i, level in enumerate(levels) if self.is_known(level.game, level.instance)]
        if self.config.model_fpath is None and SHIPPED_LEVEL in known:
            return SHIPPED_LEVEL
        return known[0] if known else 0

    def _idle_action(self) -> int | None:
        """What is done while no key is held; None = nothing happens then."""
        name = self.config.idle_action
        if name and name not in self.action_names:
            problem = "is not an action of the model"
            raise FieldError("idle_action", name, problem, f"use one of {', '.join(self.action_names)}")
        chosen = next((rest for rest in (name, *_REST) if rest in self.action_names), None)
        return None if chosen is None else self.action_names.index(chosen)

    def episode(self, environment: int, episode: int, time: int) -> Start:
        """The start at a frame of an episode, with its actions as the model understands them. UserError if none."""
        if environment >= len(self.environments) or episode >= self.environments[environment].num_episodes:
            raise UserError("there is no such episode")
        chosen = self.environments[environment]
        if time >= chosen.num_frames[episode]:
            raise UserError(f"the episode has {chosen.num_frames[episode]} frames")
        start = episode_start(chosen, episode, time, self.config.num_prime)
        return start if self.is_guided else self._inferred(start, chosen, episode, time)

    def _inferred(self, start: Start, environment: Environment, episode: int, time: int) -> Start:
        """The start with latent actions in place of recorded ones."""
        first = time + 1 - len(start.frames)
        with environment.open(episode) as reader:
            frames = np.array(reader.frames(first, min(reader.num_frames, time + 1 + _MAX_INFERRED)))
        video = torch.from_numpy(frames).to(next(self.model.parameters()).device).float().unsqueeze(0) / 255
        latent = self.model.infer_actions(video)[0].cpu().numpy() if len(frames) > 1 else np.empty(0, np.int64)
        return replace(start, following=latent[len(start.frames) - 1 :], game=None)


def _load(config: PlayConfig) -> LoadedModel[GenieRedux]:
    tokenizer = Path(config.tokenizer_fpath) if config.tokenizer_fpath else None
    return load_playable(model_path(config.model_fpath), tokenizer)
