"""Retro games of Stable-Retro, chosen from the RetroAct tables."""

import logging
from pathlib import Path
from typing import Any

from data_generation.annotations.tables import (
    ANNOTATIONS_DPATH,
    Behavior,
    Filters,
    platform_of,
    read_behavior,
    select_by_controls,
    table_path,
    without_version,
)
from data_generation.config import ConnectorConfig
from data_generation.data.errors import UNSET, FieldError, MissingPathError
from data_generation.data.info import DIGESTS, GAME_FILES, ROI_TABLE
from data_generation.data.reading import short_digest
from data_generation.generator.connector_base import (
    GYMNASIUM_FIELDS,
    PROCGEN_FIELDS,
    Connector,
    Selection,
    warn_of_equal_actions,
)
from data_generation.generator.retro_env import FPS, RetroActEnv, RetroSettings, action_buttons
from data_generation.generator.retro_games import IMPORT_COMMAND, NO_ROM, RetroGames, remedy_for
from data_generation.generator.tracking import Box, TrackedEnv, read_boxes

logger = logging.getLogger(__name__)


class RetroActConnector(Connector):
    """Games by id (with or without Stable-Retro's `-v0`) or by the filters over the tables; instances are start states.

    Instance 0 is a game's default start state, the others follow by name.
    """

    packages = (*Connector.packages, "stable-retro")
    unread_fields = (*PROCGEN_FIELDS, *GYMNASIUM_FIELDS)

    def __init__(self, config: ConnectorConfig):
        super().__init__(config)
        self.games = RetroGames(config.rom_dpath)
        self._boxes = None if config.roi_annotation_fpath is None else self._read_boxes(config.roi_annotation_fpath)

    def select(self) -> Selection:
        """Games that are named, or all that the filters leave, split into those that can be played and the others.

        One game that is named and has no ROM is an error, as is a selection of several without a single ROM. So are
        boxes that are missing, unless another game has all of them.
        """
        games = self.candidates()
        skipped = {game: obstacle for game in games if (obstacle := self.games.obstacle(game))}
        unmarked = {game: error for game in games if game not in skipped and (error := self._missing_box(game))}
        playable = [game for game in games if game not in {**skipped, **unmarked}]
        for game in playable:
            if doubt := self.games.doubt(game):
                logger.warning("%s: %s", game, doubt)
        if not playable:
            raise next(iter(unmarked.values()), None) or _nothing_to_play(skipped)
        skipped |= {game: error.problem for game, error in unmarked.items()}
        num_without = sum(obstacle == NO_ROM for obstacle in skipped.values())
        if num_without:
            text = "%d of %d games have no ROM: skipped; import those that you own with '%s'"
            logger.warning(text, num_without, len(games), IMPORT_COMMAND)
        for platform in sorted({platform_of(game) for game in playable}):
            buttons = self.games.buttons(next(game for game in playable if platform_of(game) == platform))
            pressed = {name: frozenset(action_buttons(name, platform, buttons)) for name in self.action_names}
            warn_of_equal_actions({"NOOP": frozenset(), **pressed}, platform)
        return Selection(playable, skipped)

    def make_env(self, game: str, instance: int) -> RetroActEnv | TrackedEnv:
        """The game at its instance's start state; one such environment can be open in a process."""
        box = None if self._boxes is None else self.box_of(game, self.games.state_names(game)[instance])
        env = self.games.open(game, instance)
        platform = platform_of(game)
        actions = {action: action_buttons(action, platform, env.buttons) for action in self.action_names}
        height, width = self.frame_shape[1:]
        config = self.config
        settings = RetroSettings(
            actions, config.n_skip_frames, config.n_skip_start_frames, height, width, config.max_last_frames
        )
        retro_env = RetroActEnv(env, settings)
        return retro_env if box is None else TrackedEnv(retro_env, box, (height, width))

    def recipe(self) -> dict[str, Any]:
        if self._boxes is None:
            return super().recipe()
        return {**super().recipe(), "roi_annotation_fpath": self.roi_table}

    def game_recipe(self, game: str) -> dict[str, Any]:
        """Digests of its files, and of its boxes: those of other games may be added and corrected."""
        files = {GAME_FILES: self.games.file_digests(game)}
        boxes = sorted((state, *box) for (marked, state), box in (self._boxes or {}).items() if marked == game)
        return {**files, DIGESTS[ROI_TABLE]: short_digest(repr(boxes).encode())} if boxes else files

    def native_fps(self, game: str) -> float:
        return FPS

    def num_instances(self, game: str) -> int:
        return len(self.games.start_states(game))

    def environment_name(self, game: str) -> str:
        return f"retro_{game.lower()}"

    def _read_boxes(self, fpath: str) -> dict[tuple[str, str], Box]:
        own = ANNOTATIONS_DPATH / fpath
        boxes = read_boxes(own if own.is_file() else Path(fpath))
        return {(without_version(game), state.removesuffix(".state")): box for (game, state), box in boxes.items()}

    def box_of(self, game: str, state: str) -> Box:
        """The box at a start state: that of its own row, or of the one for all other states."""
        for key in ((game, state), (game, "")):
            if self._boxes and key in self._boxes:
                return self._boxes[key]
        problem = f"no box for the start state '{state}' of {game}"
        remedy = "add a row, or play fewer start states ({generator_config.n_instances})"
        raise FieldError("roi_annotation_fpath", self.config.roi_annotation_fpath, problem, remedy)

    def _missing_box(self, game: str) -> FieldError | None:
        """The error for the first level that is asked for and has no box; None = there is none, or no box is needed."""
        try:
            if self._boxes is not None:
                for state in self.games.state_names(game)[: self.config.generator_config.n_instances]:
                    self.box_of(game, state)
        except FieldError as error:
            return error
        return None

    def candidates(self) -> list[str]:
        """Games that the configuration means, with or without ROM, before anything is opened."""
        config = self.config
        filters = Filters(*(_as_list(value) for value in (config.view, config.motion, config.genre, config.platform)))
        named = [] if config.game == "all" else [self.games.known(name) for name in _as_list(config.game)]
        if config.game != "all" and not named:
            raise FieldError("game", config.game, 'name a game, a list of games, or "all"')
        games = self._filter(named, filters)
        if config.annotation_control_fpath is not None:
            path = table_path(config.annotation_control_fpath, "annotation_control_fpath")
            games = self._keep(named, games, select_by_controls(games, path, config.action_map), path.name)
        if not games:
            problem = f"no game left by {filters or 'the tables'} and the controls"
            raise FieldError("game", config.game, problem, "loosen a filter")
        return self.first_of(games)

    def _filter(self, named: list[str], filters: Filters) -> list[str]:
        """Named games, or all of the table, that the filters leave. Named games without tag filters need no table."""
        if named and not (filters.view or filters.motion or filters.genre):
            rows = [Behavior(game, "", "", "") for game in named]
        else:
            rows = self._behavior_rows()
            if named:
                listed = [row.game for row in rows]
                self._keep(named, named, listed, "{annotation_behavior_fpath}")
                rows = [row for row in rows if row.game in named]
        games = [row.game for row in rows if filters.match(row)]
        if named:
            return self._keep(named, named, games, str(filters))
        return sorted(set(games), key=str.lower)

    def _behavior_rows(self) -> list[Behavior]:
        field, fpath = "annotation_behavior_fpath", self.config.annotation_behavior_fpath
        if fpath is None:
            problem = "not set; {game}=all and the filters view, motion and genre need that table"
            raise FieldError(field, UNSET, problem)
        path = table_path(fpath, field)
        rows = read_behavior(path)
        unknown = [row.game for row in rows if row.game not in self.games.ids]
        if unknown:
            logger.warning("%d games of %s are unknown to Stable-Retro: %s …", len(unknown), path.name, unknown[0])
        return [row for row in rows if row.game in self.games.ids]

    def _keep(self, named: list[str], games: list[str], allowed: list[str], by: str) -> list[str]:
        """The allowed games. Omitting one that the user named is an error."""
        for game in games:
            if game in named and game not in allowed:
                raise FieldError("game", game, f"omitted by {by}", "name another game, or drop that filter")
        return [game for game in games if game in allowed]


def _nothing_to_play(skipped: dict[str, str]) -> MissingPathError:
    """The error where each of the games is skipped."""
    game, obstacle = next(iter(skipped.items()))
    remedy = next(filter(None, (remedy_for(why, "name their folder by {rom_dpath}") for why in skipped.values())), "")
    if len(skipped) > 1:
        problem = f"no ROM to play of any of the {len(skipped)} games, such as {game} ({obstacle})"
    else:
        problem = f"{NO_ROM} of the game {game}" if obstacle == NO_ROM else f"{game}: {obstacle}"
    return MissingPathError("game", UNSET, problem, remedy)


def _as_list(value: Any) -> list[str]:
    """A value, a list of values or null, as a list."""
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
