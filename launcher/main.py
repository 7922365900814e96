"""Reads the command line and does what it says."""

import argparse
import pkgutil
import sys
from collections.abc import Callable, Sequence

from launcher.commands import COMMANDS, PLAIN_COMMANDS, Command
from launcher.errors import INTERRUPTED, SUCCESS, USER_ERROR, code_of_exit, exit_code_of
from launcher.help import command_help, overview
from launcher.keys import nearest_name
from launcher.spelling import respell

_GROUPS = ("config", "tokenizer", "lam", "dynamics", "connector")


def launch(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name) in this process; returns its exit code.

    0: done; 1: a failure, with its traceback; 2: a mistake of the user, in one line; 130: interrupted.
    """
    try:
        return exit_code_of(lambda: _dispatch(list(argv)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:
        return code_of_exit(error)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return SUCCESS if argv else USER_ERROR
    name, rest = argv[0], argv[1:]
    if name == "demo":
        demo: Callable[[list[str], Callable[[Sequence[str]], int]], int] = pkgutil.resolve_name("demo:main")
        return demo(rest, launch)
    if name in ("data", "annotate"):
        module = {"data": "data_generation.cli", "annotate": "data_generation.annotate"}[name]
        plain: Callable[[list[str]], int] = pkgutil.resolve_name(f"{module}:main")
        return plain(rest)
    mode, rest = _take_mode(name, rest)
    command = next(c for c in COMMANDS if (c.name, c.mode) == (name, mode))
    return _run_command(command, rest)


def _modes_of(name: str) -> list[str | None]:
    return [c.mode for c in COMMANDS if c.name == name]


def _take_mode(name: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The command's mode, and the arguments after it. Raises ValueError for an unknown command or mode."""
    modes = _modes_of(name)
    if not modes:
        names = sorted({c.name for c in COMMANDS} | set(PLAIN_COMMANDS))
        near = nearest_name(name, names)
        hint = f"did you mean '{near}'? " if near else ""
        raise ValueError(f"unknown command '{name}': {hint}There are {', '.join(names)}")
    if modes == [None]:
        return None, arguments
    known = ", ".join(str(mode) for mode in modes)
    if arguments and arguments[0] in modes:
        return arguments[0], arguments[1:]
    # `--mode=eval` alone, as the original's command line had it.
    for argument in arguments:
        if argument.removeprefix("--").startswith("mode=") and argument.partition("=")[2] in modes:
            return argument.partition("=")[2], arguments
    if arguments and arguments[0] in ("-h", "--help"):
        print(overview(name))
        raise SystemExit(SUCCESS)
    if arguments and not arguments[0].startswith("-") and "=" not in arguments[0]:
        near = nearest_name(arguments[0], [str(mode) for mode in modes])
        hint = f"did you mean '{near}'? " if near else ""
        raise ValueError(f"unknown mode '{name} {arguments[0]}': {hint}There are {known}")
    raise ValueError(f"'{name}' needs a mode: one of {known}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(f"{message} (`--help` explains the command line)")


def _option_parser() -> _Parser:
    """Hydra's options, those that make sense here."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--run", "-r", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--info", "-i", const="all", nargs="?")
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--config-dir", "-cd")
    return parser


def _run_command(command: Command, arguments: list[str]) -> int:
    # Imported here: the overview and `data` need no Hydra.
    from launcher.session import open_session

    parser = _option_parser()
    options = [option for action in parser._actions for option in action.option_strings]
    spelled = respell(arguments, command.mode, options, _GROUPS)
    for note in spelled.notes:
        print(f"note: {note}", file=sys.stderr)
    args, overrides = parser.parse_known_args(spelled.arguments)
    for override in overrides:
        if override.startswith("-"):
            raise ValueError(f"unknown option '{override}': write key=value or --key=value")
    with open_session(command, args.config_path, args.config_name, args.config_dir) as session:
        if args.help:
            print(command_help(session, overrides))
        elif args.hydra_help:
            session.show_hydra_help()
        elif args.cfg:
            session.show(overrides, args.cfg, args.package, args.resolve)
        elif args.info:
            session.show_info(overrides, args.info)
        else:
            return session.run(overrides, args.multirun)
    return SUCCESS
