"""The parts of Hydra that have no public interface: running jobs, `--info` and `--hydra-help`.

`hydra.compose` makes a configuration but runs nothing. `@hydra.main` runs jobs (record, logging, callbacks, sweepers,
launchers), but reads `sys.argv`, ends the process on errors and reports them in its own way. Both use the application
object that `hydra.initialize_config_dir` sets up, and so does this module, which is the only one that calls its
methods. They are private, so pyproject.toml bounds hydra-core.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.types import TaskFunction


def run_jobs(task: TaskFunction, config_name: str, overrides: list[str], multirun: bool) -> list[JobReturn]:
    """Run one job, or each job of a multirun; the last override must say `hydra.mode=RUN` or `MULTIRUN`."""
    run = _app().multirun if multirun else _app().run
    return list(_flat(run(config_name=config_name, task_function=task, overrides=overrides)))


def show_info(what: str, config_name: str, overrides: list[str]) -> None:
    """Print Hydra's own information: its search path, defaults list, plugins."""
    _app().show_info(what, config_name=config_name, overrides=overrides)


def show_help() -> None:
    """Print Hydra's own help: its options and its config groups."""
    parser = get_args_parser()
    _app().hydra_help(config_name=None, args_parser=parser, args=parser.parse_args([]))


def _app() -> Hydra:
    app = GlobalHydra.instance().hydra
    assert app is not None, "hydra.initialize_config_dir has been called"
    return app


def _flat(results: Any) -> Iterator[JobReturn]:
    """The jobs' results: one from a run, a list of lists from Hydra's sweeper."""
    if isinstance(results, JobReturn):
        yield results
    elif isinstance(results, Sequence):
        for result in results:
            yield from _flat(result)
