"""The parts of Hydra that have no public interface: running jobs, config groups, `--info` and `--hydra-help`.

`hydra.compose` makes a configuration but runs nothing. `@hydra.main` runs jobs (record, logging, callbacks, sweepers,
launchers), but reads `sys.argv`, ends the process on errors and reports them in its own way. Both use the application
object that `hydra.initialize_config_dir` sets up, and so does this module, which is the only one that calls its
methods. They are private, so pyproject.toml bounds hydra-core.
"""

from collections.abc import Callable, Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.utils import JobReturn
from hydra.types import TaskFunction


def run_jobs(task: TaskFunction, config_name: str, overrides: list[str], multirun: bool) -> list[JobReturn]:
    """Run one job, or each job of a multirun; the last override must say `hydra.mode=RUN` or `MULTIRUN`."""
    if not multirun:
        return [_app().run(config_name, task, overrides)]
    # Hydra's own sweeper returns a list of batches; some others return nothing.
    batches = _app().multirun(config_name, task, overrides) or []
    return [job for batch in batches for job in batch]


def group_options(search_path: Sequence[str]) -> Callable[[str, ObjectType], list[str]]:
    """The options in a config group, of a type; `search_path`: overrides that say where else Hydra looks for them.

    The public interface copies all that Hydra knows for each question.
    """
    loader = _app().config_loader
    assert isinstance(loader, ConfigLoaderImpl)
    return loader._parse_overrides_and_create_caching_repo(None, list(search_path))[1].get_group_options


def show_info(what: str, config_name: str, overrides: list[str]) -> None:
    """Print Hydra's own information: its search path, defaults list, plugins."""
    _app().show_info(what, config_name=config_name, overrides=overrides)


def show_help() -> None:
    """Print Hydra's own help: its options and its config groups."""
    parser, app = get_args_parser(), _app()
    # It asks a hundred times. The session ends with this.
    vars(app.config_loader)["get_group_options"] = group_options(())
    app.hydra_help(config_name=None, args_parser=parser, args=parser.parse_args([]))


def _app() -> Hydra:
    app = GlobalHydra.instance().hydra
    assert app is not None, "hydra.initialize_config_dir has been called"
    return app
