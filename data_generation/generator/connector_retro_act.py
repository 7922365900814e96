"""Retro games of Stable-Retro, chosen from the RetroAct tables."""

import difflib
import json
import logging
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import stable_retro
from stable_retro import data as retro_data

from data_generation.annotations.tables import (
    Behavior,
    Filters,
    platform_of,
    read_behavior,
    select_by_controls,
    table_path,
)
from data_generation.generator.connector_base import Connector, Selection
from data_generation.generator.retro_env import RetroActEnv, RetroSettings, action_buttons

logger = logging.getLogger(__name__)

# Free games of this project bring their Stable-Retro integration with them: external/<game>/integration/<id>.
OWN_GAMES_DPATH = Path(__file__).resolve().parents[2] / "external"
IMPORT_COMMAND = "python -m stable_retro.import <folder with your ROMs>"
_KEY = "config.connector"


def integrations() -> retro_data.Integrations:
    """The games to choose from: Stable-Retro's stable set, and this project's own.

    Stable-Retro keeps the folders of custom games in a list of its process; each is added once.
    """
    retro_data.Integrations._init()
    for dpath in sorted(OWN_GAMES_DPATH.glob("*/integration")):
        if str(dpath) not in retro_data.Integrations.CUSTOM_PATHS:
            retro_data.Integrations.add_custom_path(str(dpath))
    return retro_data.Integrations.CUSTOM


class RetroActConnector(Connector):
    """Games by id (with or without Stable-Retro's `-v0`) or by the filters over the tables; instances are start states.

    Instance 0 is a game's default start state, the others follow by name.
    """

    packages = (*Connector.packages, "stable-retro")

    @cached_property
    def retro_ids(self) -> dict[str, str]:
        """Game without version suffix -> Stable-Retro's id."""
        return {re.sub(r"-v\d+$", "", game): game for game in retro_data.list_games(integrations())}

    def select(self) -> Selection:
        """Games that are named, or all that the filters leave, split into those with a ROM and those without.

        One game that is named and has no ROM is an error, as is a selection of several without a single ROM.
        """
        games = self._candidates()
        skipped = {game: "no ROM" for game in games if not self._has_rom(game)}
        playable = [game for game in games if game not in skipped]
        if not playable:
            what = f"the game {games[0]}" if len(games) == 1 else f"any of the {len(games)} games, such as {games[0]}"
            raise FileNotFoundError(f"no ROM of {what}: import the ROMs that you own with '{IMPORT_COMMAND}'")
        if skipped:
            logger.warning(
                "%d of %d games have no ROM: skipped; import those that you own with '%s'",
                len(skipped),
                len(games),
                IMPORT_COMMAND,
            )
        for platform in sorted({platform_of(game) for game in playable}):
            core = stable_retro.get_system_info(self._system(next(g for g in playable if platform_of(g) == platform)))
            for action in self.action_names:
                action_buttons(action, platform, core["buttons"])
        return Selection(playable, skipped)

    def make_env(self, game: str, instance: int) -> RetroActEnv:
        """The game at its instance's start state; one such environment can be open in a process."""
        retro_id, state = self.retro_ids[game], self._start_states(game)[instance]
        env = stable_retro.make(retro_id, state=state, inttype=integrations(), render_mode="rgb_array")
        platform = platform_of(game)
        actions = {action: action_buttons(action, platform, env.buttons) for action in self.action_names}
        height, width = self.frame_shape[1:]
        settings = RetroSettings(actions, self.config.n_skip_frames, self.config.n_skip_start_frames, height, width)
        return RetroActEnv(env, settings)

    def num_instances(self, game: str) -> int:
        return len(self._start_states(game))

    def environment_name(self, game: str) -> str:
        return f"retro_{game.lower()}"

    def _start_states(self, game: str) -> list[Any]:
        """Default start state first, then the others by name."""
        retro_id = self.retro_ids[game]
        default = self._default_state(retro_id)
        others = [state for state in retro_data.list_states(retro_id, integrations()) if state != default]
        return [stable_retro.State.DEFAULT, *others]

    def _default_state(self, retro_id: str) -> str | None:
        path = retro_data.get_file_path(retro_id, "metadata.json", integrations())
        return _default_state_of(path) if path else None

    def _has_rom(self, game: str) -> bool:
        try:
            retro_data.get_romfile_path(self.retro_ids[game], integrations())
        except FileNotFoundError:
            return False
        return True

    def _system(self, game: str) -> str:
        path = retro_data.get_original_romfile_path(self.retro_ids[game], integrations())
        system: str = stable_retro.get_romfile_system(path)
        return system

    def _candidates(self) -> list[str]:
        """Games that the configuration means, with or without ROM, before anything is opened."""
        config = self.config
        filters = Filters(*(_as_list(value) for value in (config.view, config.motion, config.genre, config.platform)))
        named = [] if config.game == "all" else [self._known(name) for name in _as_list(config.game)]
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
        unknown = [row.game for row in rows if row.game not in self.retro_ids]
        if unknown:
            logger.warning("%d games of %s are unknown to Stable-Retro: %s …", len(unknown), path.name, unknown[0])
        return [row for row in rows if row.game in self.retro_ids]

    def _keep(self, named: list[str], games: list[str], allowed: list[str], by: str) -> list[str]:
        """The allowed games. Leaving out one that the user named is an error."""
        for game in games:
            if game in named and game not in allowed:
                raise ValueError(f"{_KEY}.game={game} is left out by {by}: name another game or drop that filter")
        return [game for game in games if game in allowed]

    def _known(self, name: str) -> str:
        """A game's id without version suffix. ValueError names the nearest ones."""
        game = re.sub(r"-v\d+$", "", str(name))
        if game in self.retro_ids:
            return game
        by_lower = {known.lower(): known for known in self.retro_ids}
        near = difflib.get_close_matches(game.lower(), by_lower, n=3, cutoff=0.4)
        hint = (
            f"did you mean {', '.join(by_lower[match] for match in near)}?"
            if near
            else "see stable_retro.data.list_games()"
        )
        raise ValueError(f"{_KEY}.game={name}: Stable-Retro knows no such game; {hint}")


def _default_state_of(metadata_path: str) -> str | None:
    """Name of the state that Stable-Retro starts a game of one player at, or None for power-on."""

    metadata = json.loads(Path(metadata_path).read_text())
    per_players = metadata.get("default_player_state")
    name = per_players[0] if per_players else metadata.get("default_state")
    return str(name) if name is not None else None


def _as_list(value: Any) -> list[str]:
    """A value, a list of values or null, as a list."""
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
