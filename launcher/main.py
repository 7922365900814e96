"""Reads the command line and does what it says."""

import os
import pkgutil
import sys
from collections.abc import Callable, Sequence

from data_generation.arguments import OneLineParser
from data_generation.data.errors import UserError
from data_generation.data.fields import expand_home
from launcher.commands import COMMANDS, PLAIN_COMMANDS, Command
from launcher.errors import INTERRUPTED, SUCCESS, USER_ERROR, code_of_exit, exit_code_of, flush_stdout
from launcher.help import command_help, overview
from launcher.keys import did_you_mean
from launcher.processes import leave_group
from launcher.slurm import join_tasks
from launcher.spelling import respell
from launcher.streams import make_streams_usable

# What tells a process that it is one of several, and how many threads it has. Set but empty, it says nothing.
_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")


def launch(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name) in this process; returns its exit code.

    0: done; 1: a failure, with its traceback; 2: a mistake of the user, in one line; 130: interrupted.
    """
    make_streams_usable()
    for name in _VARIABLES:
        if os.environ.get(name) == "":
            del os.environ[name]
    try:
        return exit_code_of(lambda: _finished(_dispatch(list(argv))))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:
        return code_of_exit(error)


def _finished(code: int) -> int:
    flush_stdout()
    if code == SUCCESS:
        leave_group()
    return code


def _dispatch(argv: list[str]) -> int:
    name, arguments = (argv[0], argv[1:]) if argv else ("", [])
    if name in ("", "-h", "--help", "help"):
        print(overview())
        return SUCCESS if name else USER_ERROR
    if name in PLAIN_COMMANDS:
        entry: Callable[[list[str]], int] = pkgutil.resolve_name(PLAIN_COMMANDS[name].entry)
        return entry(arguments)
    modes = {command.mode: command for command in COMMANDS if command.name == name}
    if not modes:
        names = sorted({command.name for command in COMMANDS} | set(PLAIN_COMMANDS))
        raise UserError(f"unknown command '{name}': {did_you_mean(name, names, '')} There are {', '.join(names)}")
    if None in modes:
        return _run_command(modes[None], arguments)
    if arguments[:1] in (["-h"], ["--help"]):
        print(overview(name))
        return SUCCESS
    mode = _mode_in(arguments, name, [str(mode) for mode in modes])
    return _run_command(modes[mode], arguments[1:] if arguments[0] == mode else arguments)


def _mode_in(arguments: list[str], name: str, modes: list[str]) -> str:
    """The first argument, or what `--mode=<mode>` says, as in the original's command line."""
    words = arguments[:1] + [word.partition("=")[2] for word in arguments if word.startswith(("--mode=", "mode="))]
    for word in words:
        if word in modes:
            return word
    if arguments and not arguments[0].startswith("-") and "=" not in arguments[0]:
        hint = did_you_mean(arguments[0], modes, "")
        raise UserError(f"unknown mode '{name} {arguments[0]}': {hint} There are {', '.join(modes)}")
    raise UserError(f"'{name}' needs a mode: one of {', '.join(modes)}")


def _option_parser() -> OneLineParser:
    """Those of Hydra's options that make sense here."""
    parser = OneLineParser("python run.py", add_help=False, allow_abbrev=False)
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

    if command.num_processes_key is not None:
        # Before Hydra's record, which one of them keeps.
        join_tasks()
    options, rest = _option_parser().parse_known_args(arguments)
    overrides, notes = respell(rest, command)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    config_dpath, extra_dpath = (
        path and expand_home(name, path)
        for name, path in (("--config-path", options.config_path), ("--config-dir", options.config_dir))
    )
    with open_session(command, config_dpath, options.config_name, extra_dpath) as session:
        if options.help:
            print(command_help(session, overrides))
        elif options.hydra_help:
            session.show_hydra_help()
        elif options.cfg:
            session.show(overrides, options.cfg, options.package, options.resolve)
        elif options.info:
            session.show_info(overrides, options.info)
        else:
            return session.run(overrides, options.multirun)
    return SUCCESS
