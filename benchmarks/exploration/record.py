"""What a folder's results were made with: they are of one experiment, whenever its steps ran."""

import json
from dataclasses import asdict
from typing import Any

from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.coverage import NUM_POINTS
from benchmarks.exploration.second_round import ROUND_ONE
from benchmarks.exploration.settings import HELD_OUT, NUM_ENVS, REWARDING, SCRIPTED_GAMES
from data_generation.data.errors import UNSET, FieldError, under
from data_generation.data.files import write_atomically
from external.agent57.checkpoint import read_agent57
from models.checkpoint import load_model, load_world_model
from models.tensor_file import digest

# Other seeds add to what is there.
_MAY_DIFFER = ("first_seed", "seeds", "data_seeds")
_OPTIONS = {
    "num_steps": "--steps",
    "agent57_epochs": "--agent57-epochs",
    "agent57": "--agent57",
    "game": "--game",
    "tested_models": "--tested",
}
# Of these, only that they differ.
_NOT_SHOWN = {"game": "another", "agent57": "another", "tested_models": "others"}
_MADE_HERE = "trained here"


def check_test_play(experiment: Experiment) -> None:
    """FieldError if there is no agent or script to test with, and no agent can be trained."""
    game, policy, has_script = experiment.game, experiment.test_policy, experiment.game.name in SCRIPTED_GAMES
    if policy != "agent57":
        if experiment.agent57 is not None:
            problem = f"is not what --test-policy={policy} tests with"
            raise FieldError("--agent57", experiment.agent57, problem, "omit it")
        if policy == "scripted" and not has_script:
            raise FieldError("--test-policy", "scripted", f"{game.name} has no script", "give an Agent57 (--agent57)")
    elif experiment.agent57 is not None:
        with under("", path="--agent57"):
            read_agent57(experiment.agent57)
    elif not game.agent57:
        problem = f"there is no preset that trains Agent57 for {game.name}"
        remedy = "give a trained one (--agent57)" + (", or test with 'scripted'" if has_script else "")
        raise FieldError("--test-policy", "agent57", problem, remedy)


def check_distance(experiment: Experiment) -> None:
    """FieldError if no distances from random play can be known, or no model of it is there to compare with."""
    if experiment.game.name != "cinderfoot":
        problem = "does not record where its character is, which distance needs"
        raise FieldError("--game", experiment.game.name, problem, "use --game cinderfoot, or omit --parts distance")
    if "random" not in experiment.fine_tuned_on:
        shown, problem = " ".join(experiment.fine_tuned_on), "distance compares with a model of random data"
        raise FieldError("--fine-tune-on", shown, problem, "add random, or omit --parts distance")


def check_second_round(experiment: Experiment) -> None:
    """FieldError if there is no first round that it could start from."""
    if ROUND_ONE not in experiment.fine_tuned_on:
        shown, problem = " ".join(experiment.fine_tuned_on), "the second round starts from AutoExplore's models"
        raise FieldError("--fine-tune-on", shown, problem, f"add {ROUND_ONE}, or omit --parts twice")


def check_tests(experiment: Experiment) -> None:
    """FieldError for models that cannot be tested, and for levels that the third policy does not play."""
    if HELD_OUT in experiment.test_levels and experiment.test_policy == "scripted":
        problem = "the script does not play them"
        raise FieldError("--test-levels", HELD_OUT, problem, "omit it, or another --test-policy")
    if experiment.tested_models:
        tokenizer, world_model = experiment.tested_models
        with under("", path="--tested"):
            if (kind := load_model(tokenizer).config.model) != "tokenizer":
                raise FieldError("path", tokenizer, f"is a {kind}", "give a tokenizer first, then the world model")
            load_world_model(world_model, tokenizer)


def check_coverage(experiment: Experiment) -> None:
    """FieldError for too few steps to compare."""
    least = NUM_POINTS * NUM_ENVS
    if (compared := experiment.compared_steps) < least:
        problem = f"of which only {max(0, compared)} would be compared: episodes that are not over at the end are not"
        remedy = f"give {experiment.scale.num_steps + least - compared} or more"
        raise FieldError("--steps", experiment.scale.num_steps, problem, remedy)


def check_agents(experiment: Experiment) -> None:
    """FieldError for an agent that cannot play the game."""
    if "counts" in experiment.agents and not experiment.game.reports_positions:
        problem = f"{experiment.game.name} reports no positions while it is played"
        raise FieldError("--agents", "counts", problem, "omit it")


def check_same_experiment(experiment: Experiment, has_test: bool) -> None:
    """Write settings.json. FieldError if the folder was begun with others: its results would be of both.

    `has_test`: whether models are tested, so that it matters on whose play.
    """
    path = experiment.root / "settings.json"
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    own = {"game": asdict(experiment.game), **asdict(experiment.scale)}
    if has_test and experiment.test_policy == "agent57":
        own["agent57"] = digest(experiment.agent57) if experiment.agent57 else _MADE_HERE
        if not experiment.test_dataset().exists():
            stored.pop("agent57", None)
    if has_test:
        own["tested_models"] = [digest(path) for path in experiment.tested_models or ()] or _MADE_HERE
        # Folders from before there was a choice.
        if any(path.name != REWARDING for path in (experiment.root / "evaluations").glob("*")):
            stored.setdefault("tested_models", _MADE_HERE)
        else:
            stored.pop("tested_models", None)
    # As JSON gives them back.
    own = json.loads(json.dumps({name: value for name, value in own.items() if name not in _MAY_DIFFER}))
    for name, value in own.items():
        if (before := stored.get(name, value)) != value:
            models = " ".join(map(str, experiment.tested_models or ())) or UNSET
            shown = {"game": UNSET, "agent57": experiment.agent57 or UNSET, "tested_models": models}.get(name, value)
            problem = f"'{experiment.root}' was begun with {_NOT_SHOWN.get(name, before)}"
            raise FieldError(_OPTIONS.get(name, name), shown, problem, "name another --root")
    experiment.root.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({**stored, **own}, indent=2) + "\n")
