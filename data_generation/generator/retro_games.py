"""Which retro games there are: Stable-Retro's stable set, this project's own, and those of a user's folder."""

import difflib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import stable_retro
from stable_retro import data as retro_data

from data_generation.annotations.tables import platform_of, without_version
from data_generation.data.errors import FieldError, MissingPathError
from data_generation.data.reading import content_digest, short_digest

# Free games of this project bring their Stable-Retro integration with them: external/<game>/integration/<id>.
OWN_GAMES_DPATH = Path(__file__).resolve().parents[2] / "external"
IMPORT_COMMAND = "python -m stable_retro.import <folder with your ROMs>"
NO_ROM = "no ROM"
DAMAGED = "its ROM is damaged, or another version"
# Without one of them Stable-Retro ends with an error that does not say so.
_INTEGRATION = ("data.json", "scenario.json", "metadata.json")
_LEAST = ', with {"info": {}} in data.json and {} in others at least'
# Arcade games: their parts have checksums, not the file.
_ARCHIVES = (".zip", ".7z")


def integrations(rom_dpath: Path | None = None) -> retro_data.Integrations:
    """The games to choose from: those of `rom_dpath` first, this project's own, then Stable-Retro's stable set.

    Stable-Retro keeps the folders of custom games in a list of its process; it is set anew with each call.
    """
    retro_data.Integrations._init()
    mine = [] if rom_dpath is None else [rom_dpath.resolve()]
    retro_data.Integrations.CUSTOM_PATHS[:] = map(str, [*mine, *sorted(OWN_GAMES_DPATH.glob("*/integration"))])
    return retro_data.Integrations.CUSTOM


class RetroGames:
    """Looks games up by their ids, with or without version suffix; holds no emulator, can be pickled."""

    def __init__(self, rom_dpath: str | None):
        """`rom_dpath`: a folder with one folder per game, `<id>/rom.<ext>`.

        Further files of a game's integration in it (`data.json`, states, …) replace Stable-Retro's. Errors name the
        field `rom_dpath`.
        """
        self.rom_dpath = None if rom_dpath is None else Path(rom_dpath)
        if self.rom_dpath is not None:
            _check_folder(self.rom_dpath)

    @property
    def integrations(self) -> retro_data.Integrations:
        return integrations(self.rom_dpath)

    @cached_property
    def ids(self) -> dict[str, str]:
        """Game without version suffix -> Stable-Retro's id."""
        listed = retro_data.list_games(self.integrations)
        mine = [] if self.rom_dpath is None else [path.parent.name for path in self.rom_dpath.glob("*/rom.*")]
        return {without_version(game): game for game in [*listed, *mine]}

    def known(self, name: str) -> str:
        """A game's id without version suffix. FieldError of `game` names the nearest ones."""
        game = without_version(name)
        if game in self.ids:
            return game
        by_lower = {known.lower(): known for known in self.ids}
        near = difflib.get_close_matches(game.lower(), by_lower, n=3, cutoff=0.4)
        names = ", ".join(by_lower[match] for match in near)
        remedy = f"did you mean {names}?" if near else "see stable_retro.data.list_games()"
        raise FieldError("game", name, "Stable-Retro knows no such game", remedy)

    def obstacle(self, game: str) -> str:
        """Why a game cannot be played here, as far as its files show; empty = nothing."""
        if misnamed := self._misnamed(game):
            return misnamed
        try:
            rom = self._rom(game)
        except FileNotFoundError:
            return NO_ROM
        if lacking := [name for name in _INTEGRATION if self._path(game, name) is None]:
            return f"no {' and no '.join(lacking)}: put it next to the ROM{_LEAST}"
        # Only next to the ROM: a user's own version of a game needs no checksum.
        checksums = rom.with_name("rom.sha")
        return DAMAGED if checksums.is_file() and not _is_listed(rom, checksums) else ""

    def doubt(self, game: str) -> str:
        """Why a game that can be played may not start, end or reward as it should; empty = for no reason."""
        rom, checksums = self._rom(game), self._path(game, "rom.sha")
        own = [path for name in ("rom.sha", "data.json", "*.state") for path in rom.parent.glob(name)]
        if own or checksums is None or _is_listed(rom, checksums):
            return ""
        problem = "its ROM is not the one that Stable-Retro's start states and data.json are made for (rom.sha)"
        return f"{problem}: put that one there, or data.json and states for yours next to it"

    def _misnamed(self, game: str) -> str:
        """What to rename, if the game's only ROM in `rom_dpath` has a name under which no core takes it; "" = none."""
        folder = self.rom_dpath and self.rom_dpath / self.ids[game]
        roms = sorted(path for path in folder.glob("rom.*") if path.suffix != ".sha") if folder else []
        console = retro_data.EMU_INFO.get(platform_of(game))
        if not roms or console is None or any(_core_of(rom) == console["lib"] for rom in roms):
            return ""
        named = f"'{roms[0]}' is no name of a ROM of {platform_of(game)}"
        return f"{named}: {'unpack' if roms[0].suffix in _ARCHIVES else 'rename'} it to rom.{console['ext'][0]}"

    def _rom(self, game: str) -> Path:
        """FileNotFoundError if there is none."""
        return Path(retro_data.get_original_romfile_path(self.ids[game], self.integrations))

    def buttons(self, game: str) -> list[str | None]:
        """Buttons of the game's console, as its core names them."""
        system = stable_retro.get_romfile_system(self._rom(game))
        names: list[str | None] = stable_retro.get_system_info(system)["buttons"]
        return names

    def start_states(self, game: str) -> list[Any]:
        """Default start state first, then the others by name."""
        return [stable_retro.State.DEFAULT, *self._other_states(game)]

    def _other_states(self, game: str) -> list[str]:
        default = self._default_state(game)
        return [state for state in retro_data.list_states(self.ids[game], self.integrations) if state != default]

    def state_names(self, game: str) -> list[str]:
        """Names of the start states, instance by instance; empty for power-on."""
        return [self._default_state(game) or "", *self._other_states(game)]

    def file_digests(self, game: str) -> dict[str, str]:
        """What decides, besides the settings, what a game shows: name -> digest of its content, or "" without it.

        A ROM in an archive is left out, since the same one may be packed in many ways.
        """
        states = self.state_names(game)
        contents = [_digest(self._path(game, f"{state.removesuffix('.state')}.state")) for state in states]
        scenario = self._path(game, "scenario.json")
        scripts = [] if scenario is None else sorted(scenario.parent.glob("*.lua"))
        rom = self._rom(game)
        return {
            "ROM": "" if rom.suffix in _ARCHIVES else content_digest(rom),
            "data.json": _digest(self._path(game, "data.json")),
            "scenario.json": _digest(scenario, *scripts),
            # Their order, too: instances are places in it.
            "start states": short_digest(repr(list(zip(states, contents, strict=True))).encode()),
        }

    def _path(self, game: str, name: str) -> Path | None:
        """Where a file of a game's integration is found."""
        path = retro_data.get_file_path(self.ids[game], name, self.integrations)
        return Path(path) if path else None

    def _default_state(self, game: str) -> str | None:
        path = self._path(game, "metadata.json")
        return _default_state_of(path) if path else None

    def open(self, game: str, instance: int = 0) -> stable_retro.RetroEnv:
        """The game at its instance's start state; one can be open in a process."""
        state = self.start_states(game)[instance]
        return stable_retro.make(self.ids[game], state=state, inttype=self.integrations, render_mode="rgb_array")


def _check_folder(rom_dpath: Path) -> None:
    """FieldError for a folder that is missing or holds no game."""
    field = "rom_dpath"
    layout = "expected one folder per game, <id>/rom.<ext>, such as SuperMarioBros-Nes-v0/rom.nes"
    if not rom_dpath.is_dir():
        raise MissingPathError(field, rom_dpath, "no such folder", layout)
    found = [path.parent.name for path in rom_dpath.glob("*/rom.*")]
    if not found:
        raise FieldError(field, rom_dpath, "no ROM in it", f"{layout}, or import the files with '{IMPORT_COMMAND}'")
    # The rest of the game's integration is found under the same name only.
    stable = set(retro_data.list_games(retro_data.Integrations.STABLE))
    for name in found:
        if name not in stable and f"{name}-v0" in stable:
            raise FieldError(field, rom_dpath, f"Stable-Retro calls {name} '{name}-v0'", "rename the folder to that")


def remedy_for(obstacle: str, where: str) -> str:
    """What to do about an obstacle of a game, unless it says so itself; `where`: how ROMs of one's own are named."""
    return f"import the ROMs that you own with '{IMPORT_COMMAND}', or {where}" if obstacle in (NO_ROM, DAMAGED) else ""


def _core_of(rom: Path) -> str | None:
    """The core that a ROM gets by its name."""
    info = retro_data.EMU_INFO.get(retro_data.EMU_EXTENSIONS.get(rom.suffix))
    return info and info["lib"]


def _is_listed(rom: Path, checksums: Path) -> bool:
    """Whether a ROM has one of the checksums of a file. What has none, an archive or a ROM beyond 32 MiB, passes."""
    if rom.suffix in _ARCHIVES:
        return True
    try:
        with rom.open("rb") as file:
            _, checksum = retro_data.groom_rom(rom.name, file)
    except ValueError:
        return True
    return checksum in checksums.read_text(encoding="utf-8").split()


def _digest(*paths: Path | None) -> str:
    """That of the contents of some files; "" if there is none."""
    return "+".join(content_digest(path) for path in paths if path is not None)


def _default_state_of(metadata_path: Path) -> str | None:
    """Name of the state that Stable-Retro starts a game of one player at, or None for power-on."""
    metadata = json.loads(metadata_path.read_text(encoding="utf-8"))
    per_players = metadata.get("default_player_state")
    name = per_players[0] if per_players else metadata.get("default_state")
    return str(name) if name is not None else None
