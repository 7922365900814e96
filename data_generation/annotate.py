"""`python run.py annotate <game> …`: watch what a game's actions do, and annotate them."""

import argparse
import difflib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_generation.annotate_page import caption, write_page
from data_generation.annotations.edit import (
    CONTROL_COLUMNS,
    VOCABULARY,
    Annotation,
    mistakes_in,
    present,
    tables_in,
    write,
)
from data_generation.annotations.tables import read_behavior
from data_generation.annotations.validate import ACTIONS, EXTRA, TAGS, Tables, check, shipped_tables
from data_generation.arguments import OneLineParser
from data_generation.data.errors import UNSET, FieldError, MissingPathError, UserError, under
from data_generation.data.fields import Range, expand_home
from data_generation.generator.action_clips import play_clips
from data_generation.generator.retro_games import IMPORT_COMMAND, RetroGames, remedy_for

_ABOUT = """\
Plays a short clip of each action from a game's start state and shows them: a GIF per action, a sheet, a page for the
browser. Then asks for the tags and writes them into the RetroAct tables with `source` played (Enter keeps the
present value, for confidence it means high; ? lists the words, s skips the game, q quits). Without games: those that
have a ROM and were annotated without being played, the least certain first."""
_KEYS = f"""\
keys, as key=value:
  tags="side h pl" RIGHT=right … transition=NO confidence=high
                  the answers, for one game; nothing is asked then. What is omitted stays as it is,
                  confidence is high
                  columns: tags, {", ".join(CONTROL_COLUMNS)}, confidence
  tables=<folder> write into the three tables of this folder, copied from the project's where missing
  rom_dpath=<folder>      ROMs of your own, <id>/rom.<ext>, in addition to the imported ones
  to=<folder>     where the images go (default: outputs/annotate)
  start_frames=0  emulator frames to wait before a clip
  before=RIGHT*30,UP*4    actions to play before each clip, of four emulator frames each

example: python run.py annotate Cinderfoot-Nes Airstriker-Genesis tables=my_tables"""
# Of waiting and of playing before a clip.
_MAX_STEPS = 1_000_000
_ANSWERS = ("tags", *CONTROL_COLUMNS, "confidence")


class _Quit(Exception):
    """Stop annotating."""


class _Skip(Exception):
    """No annotation of this game."""


@dataclass
class _Request:
    """The command line."""

    games: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    tables: str | None = None
    rom_dpath: str | None = None
    to: str = "outputs/annotate"
    start_frames: int = 0
    before: list[str] = field(default_factory=list)


def main(argv: Sequence[str]) -> int:
    """Annotate games; returns the exit code. UserError for the user's mistakes."""
    parser = OneLineParser(
        "python run.py annotate", description=_ABOUT, epilog=_KEYS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="game | key=value", help="ids, with or without -v0")
    options = [word.removeprefix("--") if "=" in word else word for word in argv]
    request = _parse(parser.parse_args(options).words)
    games = RetroGames(request.rom_dpath)
    tables = tables_in(None if request.tables is None else Path(request.tables))
    chosen = [_playable(games, name) for name in request.games] or _unplayed(games, tables)
    for name, value in request.answers.items():
        if mistake := mistakes_in(name, value):
            raise FieldError(name, value, mistake)
    for number, game in enumerate(chosen, start=1):
        print(f"\n[{number}/{len(chosen)}] {game}")
        try:
            _annotate(games, tables, game, request)
        except _Skip:
            print(f"skipped  nothing written for {game}")
        except (_Quit, KeyboardInterrupt):
            print(f"\nstopped: nothing written for {game}; what was written before stays")
            break
    return 0


def _parse(words: Sequence[str]) -> _Request:
    request = _Request()
    options = [name for name in vars(request) if name not in ("games", "answers")]
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            request.games.append(word)
        elif key in _ANSWERS:
            request.answers[key] = value
        elif key == "start_frames":
            request.start_frames = _count(key, value, value, least=0)
        elif key == "before":
            request.before = list(_script(value))
        elif key in options:
            setattr(request, key, expand_home(key, value))
        else:
            known = [*_ANSWERS, *options]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            raise UserError(f"unknown key '{key}': {f'did you mean {near[0]!r}?' if near else ''} see --help")
    if request.answers and len(request.games) != 1:
        key, value = next(iter(request.answers.items()))
        raise FieldError(key, value, "is the answer for one game", f"name one game, not {request.games}")
    return request


def _script(value: str) -> Iterator[str]:
    """Action names, one per step: "RIGHT*30,UP" is thirty times RIGHT and one UP."""
    for entry in value.split(","):
        name, _, count = entry.partition("*")
        yield from [name] * _count("before", value, count or "1", least=1)


def _count(key: str, value: str, text: str, least: int) -> int:
    """The number of frames or steps in `text`, which is a part of the key's value."""
    # A number of thousands of digits is none to Python.
    is_number = text.isdecimal() and len(text) < 20
    problem = Range(least, _MAX_STEPS).problem(int(text)) if is_number else "must be a number"
    if problem:
        raise FieldError(key, value, f"'{text}' {problem}")
    return int(text)


def _playable(games: RetroGames, name: str) -> str:
    game = games.known(name)
    if obstacle := games.obstacle(game):
        remedy = remedy_for(obstacle, "name their folder by rom_dpath=<folder>")
        raise MissingPathError("game", game, obstacle, remedy)
    if doubt := games.doubt(game):
        print(f"note     {game}: {doubt}")
    return game


def _unplayed(games: RetroGames, tables: Tables) -> list[str]:
    """Games of the table with a ROM that were annotated from knowledge only, the least certain first."""
    levels = list(reversed(EXTRA["confidence"]))
    rows = [row for row in read_behavior(tables.behavior) if row.source != "played" and row.game in games.ids]
    rows.sort(key=lambda row: levels.index(row.confidence) if row.confidence in levels else -1)
    chosen = [row.game for row in rows if not games.obstacle(row.game)]
    if not chosen:
        raise UserError(
            f"no game is left that has a ROM and was not played: name one, or import ROMs with '{IMPORT_COMMAND}'"
        )
    return chosen


def _annotate(games: RetroGames, tables: Tables, game: str, request: _Request) -> None:
    """Show one game's actions, take its tags and write them."""
    known = present(tables, game)
    with under("", valid_action_combos="before", n_skip_start_frames="start_frames"):
        clips = play_clips(games, game, list(ACTIONS), request.before, request.start_frames)
    page = write_page(Path(request.to) / game, game, clips, known)
    print(f"look at  {page} (or {page.with_name('sheet.png')})")
    for clip in clips:
        print(f"  {caption(clip, known)}")
    annotation = _given(game, request.answers, known) if request.answers else _asked(game, known)
    remarks = write(tables, annotation)
    said = " ".join(f"{name}={value}" for name, value in annotation.controls.items())
    print(f"written  {game}: {annotation.tags}{f', {said}' if said else ''} (played, {annotation.confidence})")
    errors = check(tables)
    for line in [*remarks, *(f"validator: {error}" for error in errors[:3])]:
        print(f"note     {line}")
    print(f"next     {_validation(tables)} checks all rows and prints the figures")


def _validation(tables: Tables) -> str:
    """The command that validates these tables."""
    shipped = vars(shipped_tables())
    own = [f"--{name} {shlex.quote(f'{path}')}" for name, path in vars(tables).items() if path != shipped[name]]
    return " ".join(["python -m data_generation.annotations.validate", *own])


def _given(game: str, answers: Mapping[str, str], known: Mapping[str, str]) -> Annotation:
    """The annotation by keys; columns that they omit keep their values in the tables."""
    merged = {**known, **answers}
    if "tags" not in merged:
        raise FieldError("tags", UNSET, f"{game} has no row yet", 'give them, such as tags="side h pl"')
    annotation = Annotation(game, merged["tags"], answers.get("confidence", "high"))
    if not annotation.is_platformer:
        if extra := [name for name in answers if name in CONTROL_COLUMNS]:
            problem = f"controls are for platformers, not for '{merged['tags']}'"
            raise FieldError(extra[0], answers[extra[0]], problem, "omit it, or correct the tags")
        return annotation
    if missing := [name for name in CONTROL_COLUMNS if name not in merged]:
        remedy = f"give {' '.join(f'{name}=…' for name in missing)}"
        raise FieldError(missing[0], UNSET, f"{game} is tagged pl and has no {missing[0]} yet", remedy)
    return Annotation(game, merged["tags"], annotation.confidence, {name: merged[name] for name in CONTROL_COLUMNS})


def _asked(game: str, known: Mapping[str, str]) -> Annotation:
    """The annotation by questions in the terminal."""
    tags = _ask("tags", known.get("tags", ""))
    controls = {}
    if Annotation(game, tags).is_platformer:
        controls = {name: _ask(name, known.get(name, "")) for name in CONTROL_COLUMNS}
    return Annotation(game, tags, _ask("confidence", "high"), controls)


def _ask(column: str, default: str) -> str:
    while True:
        try:
            answer = input(f"{column}{f' [{default}]' if default else ''}: ").strip() or default
        except EOFError:
            print()
            # Without a terminal the images of all games are still made.
            raise (_Quit if sys.stdin.isatty() else _Skip) from None
        if answer == "q":
            raise _Quit
        if answer == "s":
            raise _Skip
        if answer == "?":
            print(_words(column))
        elif mistake := mistakes_in(column, answer):
            print(f"  {mistake}")
        else:
            return answer


def _words(column: str) -> str:
    if column == "tags":
        return "\n".join(f"  {name}: {' '.join(values)}" for name, values in TAGS.items())
    return f"  {' '.join(VOCABULARY[column])}"
