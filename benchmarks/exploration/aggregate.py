"""One table of several games: what was covered, divided by what random play covers in the same game."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exploration.commands import CURVES_DNAME
from benchmarks.exploration.coverage import Curve, read_curve
from benchmarks.exploration.report import AREAS, LABELS
from benchmarks.exploration.statistics import interval_over_seeds
from data_generation.data.errors import FieldError
from data_generation.data.markdown import markdown_table

_BASELINE = "random"
# Of one game: each agent's curves, one for each seed.
GameCurves = dict[str, list[Curve]]


def report_games(roots: list[Path], first_seed: int) -> str:
    """The table of experiments whose coverage was compared, with the seeds from `first_seed` on.

    FieldError for a folder that has no curves, or none of random play, and for folders that are of one game or of
    different numbers of steps.
    """
    # However it is spelt: what is given twice would count twice.
    roots = list({root.resolve(): root for root in roots}.values())
    for (first, one), (second, other) in combinations([(root, _settings(root)) for root in roots], 2):
        if one["game"] == other["game"]:
            remedy = "name one folder of each game"
            raise FieldError("--report", second, f"is of {other['game']}, as '{first}' is", remedy)
        if None not in (one["steps"], other["steps"]) and one["steps"] != other["steps"]:
            problem = f"is of {other['steps']} steps, '{first}' of {one['steps']}"
            raise FieldError("--report", second, problem, "compare folders of the same --steps")
    return games_table([_read_curves(root, first_seed) for root in roots])


def games_table(games: list[GameCurves]) -> str:
    """A row for each agent that played all games: interquartile means over all runs, 1 is random play's mean.

    The bootstrap is stratified by game (Agarwal et al. 2021).
    """
    measures = [name for name in AREAS if all(name in curves[_BASELINE][0].values for curves in games)]
    columns = [(kind, name) for name in measures for kind in ("final", "area")]
    head = ["agent", "runs", *(name if kind == "final" else f"area: {name}" for kind, name in columns)]
    body = []
    for agent in LABELS:
        if all(agent in curves for curves in games):
            cells = [
                str(interval_over_seeds(*(_normalised(curves, agent, *column) for curves in games)))
                for column in columns
            ]
            body.append([LABELS[agent], " + ".join(str(len(curves[agent])) for curves in games), *cells])
    return markdown_table(head, body)


def _normalised(curves: GameCurves, agent: str, kind: str, name: str) -> np.ndarray:
    """A measure (N,) of an agent's runs in units of random play's mean."""
    own, random = (np.array([getattr(curve, kind)(name) for curve in curves[who]]) for who in (agent, _BASELINE))
    values: np.ndarray = own / random.mean()
    return values


def _settings(root: Path) -> dict[str, Any]:
    """Game and steps of a folder; its own path and None where it does not say."""
    path = root / "settings.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {"game": stored.get("game", {}).get("name", str(root)), "steps": stored.get("num_steps")}


def _read_curves(root: Path, first_seed: int) -> GameCurves:
    curves: GameCurves = {}
    has_earlier = False
    for path in sorted((root / CURVES_DNAME).glob("*.json")):
        agent, _, seed = path.stem.rpartition("_seed")
        if int(seed) >= first_seed:
            curves.setdefault(agent, []).append(read_curve(path))
        elif agent == _BASELINE:
            has_earlier = True
    if _BASELINE not in curves:
        problem = "has no coverage of random play, by which the others' is divided"
        if has_earlier:
            raise FieldError("--report", root, f"{problem}, with seeds from {first_seed} on", "lower --first-seed")
        raise FieldError("--report", root, problem, f"compare it there: --parts coverage --agents {_BASELINE} …")
    return curves
