"""`python run.py report <runs…>`: the page of a run, or one page for several."""

from pathlib import Path

from data_generation.arguments import OneLineParser, read_path
from data_generation.data.errors import UserError
from data_generation.data.files import write_atomically
from training.pages.folder import read_run
from training.pages.page import PAGE_NAME, comparison_page, run_page

_ABOUT = """\
Write a page about runs: curves, samples, configuration, code, hardware and throughput, in one file that needs no
network. A run is a folder with metrics.jsonl (of training: model, AutoExplore, Agent57) or metrics.json (of an
evaluation). Several are compared: overlaid curves, and tables of the settings that differ and of the last
values."""
_COMPARISON_FPATH = Path("outputs") / PAGE_NAME


def main(argv: list[str]) -> int:
    """Write the page and print its path. UserError for a folder that holds no run."""
    parser = OneLineParser(prog="python run.py report", description=_ABOUT)
    parser.add_argument("runs", nargs="+", type=read_path, help="folders of runs or evaluations")
    where = f"the page's path (default: in the run's folder; of several {_COMPARISON_FPATH})"
    parser.add_argument("--output", type=read_path, help=where)
    args = parser.parse_args(argv)
    views = [read_run(path) for path in args.runs]
    path = args.output or (args.runs[0] / PAGE_NAME if len(views) == 1 else _COMPARISON_FPATH)
    if path.is_dir():
        raise UserError(f"--output: '{path}' is a folder; name a file, such as '{path / PAGE_NAME}'")
    write_atomically(path, run_page(views[0]) if len(views) == 1 else comparison_page(views))
    print(path)
    return 0
