"""Retro games of Stable-Retro, chosen from the RetroAct tables."""

import logging
from pathlib import Path
from typing import Any

from data_generation.annotations.tables import (
    Behavior,
    Filters,
    platform_of,
    read_behavior,
    select_by_controls,
    table_path,
)
from data_generation.config import ConnectorConfig
from data_generation.generator.connector_base import Connector, Selection
from data_generation.generator.retro_env import RetroActEnv, RetroSettings, action_buttons
from data_generation.generator.retro_games import IMPORT_COMMAND, NO_ROM, RetroGames

logger = logging.getLogger(__name__)

_KEY = "config.connector"


class RetroActConnector(Connector):
    """Games by id (with or without Stable-Retro's `-v0`) or by the filters over the tables; instances are start states.

    Instance 0 is a game's default start state, the others follow by name.
    """

    packages = (*Connector.packages, "stable-retro")

    def __init__(self, config: ConnectorConfig):
        super().__init__(config)
        self.games = RetroGames(config.rom_dpath, f"{_KEY}.rom_dpath")

    def select(self) -> Selection:
        """Games that are named, or all that the filters leave, split into those that can be played and the others.

        One game that is named and has no ROM is an error, as is a selection of several without a single ROM.
        """
        games = self._candidates()
        skipped = {game: obstacle for game in games if (obstacle := self.games.obstacle(game))}
        playable = [game for game in games if game not in skipped]
        if not playable:
            raise FileNotFoundError(_nothing_to_play(skipped))
        num_without = sum(obstacle == NO_ROM for obstacle in skipped.values())
        if num_without:
            text = "%d of %d games have no ROM: skipped; import those that you own with '%s'"
            logger.warning(text, num_without, len(games), IMPORT_COMMAND)
        for platform in sorted({platform_of(game) for game in playable}):
            buttons = self.games.buttons(next(game for game in playable if platform_of(game) == platform))
            for action in self.action_names:
                action_buttons(action, platform, buttons)
        return Selection(playable, skipped)

    def make_env(self, game: str, instance: int) -> RetroActEnv:
        """The game at its instance's start state; one such environment can be open in a process."""
        env = self.games.open(game, instance)
        platform = platform_of(game)
        actions = {action: action_buttons(action, platform, env.buttons) for action in self.action_names}
        height, width = self.frame_shape[1:]
        settings = RetroSettings(actions, self.config.n_skip_frames, self.config.n_skip_start_frames, height, width)
        return RetroActEnv(env, settings)

    def num_instances(self, game: str) -> int:
        return len(self.games.start_states(game))

    def environment_name(self, game: str) -> str:
        return f"retro_{game.lower()}"

    def _candidates(self) -> list[str]:
        """Games that the configuration means, with or without ROM, before anything is opened."""
        config = self.config
        filters = Filters(*(_as_list(value) for value in (config.view, config.motion, config.genre, config.platform)))
        named = (
            [] if config.game == "all" else [self.games.known(name, f"{_KEY}.game") for name in _as_list(config.game)]
        )
        if config.game != "all" and not named:
            raise ValueError(f'{_KEY}.game={config.game}: name a game, a list of games, or "all"')
        games = self._filter(named, filters)
        if config.annotation_control_fpath is not None:
            key = f"{_KEY}.annotation_control_fpath"
            path = table_path(config.annotation_control_fpath, key)
            games = self._keep(named, games, select_by_controls(games, path, config.action_map), path.name)
        if not games:
            raise ValueError(f"{_KEY}: no game left by {filters or 'the tables'} and the controls; loosen a filter")
        return games[: config.limit_games] if config.limit_games else games

    def _filter(self, named: list[str], filters: Filters) -> list[str]:
        """Named games, or all of the table, that the filters leave. Named games without tag filters need no table."""
        if named and not (filters.view or filters.motion or filters.genre):
            rows = [Behavior(game, "", "", "") for game in named]
        else:
            rows = self._behavior_rows()
            if named:
                listed = [row.game for row in rows]
                self._keep(named, named, listed, "config.connector.annotation_behavior_fpath")
                rows = [row for row in rows if row.game in named]
        games = [row.game for row in rows if filters.match(row)]
        if named:
            return self._keep(named, named, games, str(filters))
        return sorted(set(games), key=str.lower)

    def _behavior_rows(self) -> list[Behavior]:
        key = f"{_KEY}.annotation_behavior_fpath"
        fpath = self.config.annotation_behavior_fpath
        if fpath is None:
            raise ValueError(f"{key} is not set: game=all and the filters view, motion and genre need that table")
        path: Path = table_path(fpath, key)
        rows = read_behavior(path)
        unknown = [row.game for row in rows if row.game not in self.games.ids]
        if unknown:
            logger.warning("%d games of %s are unknown to Stable-Retro: %s …", len(unknown), path.name, unknown[0])
        return [row for row in rows if row.game in self.games.ids]

    def _keep(self, named: list[str], games: list[str], allowed: list[str], by: str) -> list[str]:
        """The allowed games. Leaving out one that the user named is an error."""
        for game in games:
            if game in named and game not in allowed:
                raise ValueError(f"{_KEY}.game={game} is left out by {by}: name another game or drop that filter")
        return [game for game in games if game in allowed]


def _nothing_to_play(skipped: dict[str, str]) -> str:
    """The error where each of the games is skipped."""
    game, obstacle = next(iter(skipped.items()))
    remedy = f"import the ROMs that you own with '{IMPORT_COMMAND}', or name their folder by {_KEY}.rom_dpath"
    if len(skipped) == 1:
        return f"{NO_ROM} of the game {game}: {remedy}" if obstacle == NO_ROM else f"{game}: {obstacle}; {remedy}"
    return f"no ROM to play of any of the {len(skipped)} games, such as {game} ({obstacle}): {remedy}"


def _as_list(value: Any) -> list[str]:
    """A value, a list of values or null, as a list."""
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
