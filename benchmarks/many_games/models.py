"""World models of many games and of one, and models fine-tuned to a game that was held out, at equal FLOPs."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.equal_compute import (
    OPERATIONS_PER_MINUTE,
    Cost,
    Evaluated,
    TrainingCommand,
    check_budget,
    check_evaluated,
    evaluate,
    train,
)
from benchmarks.many_games.data import Datasets
from benchmarks.many_games.games import RecordedGame
from benchmarks.quality.arms import ARMS
from data_generation.data.files import write_atomically

# The recipe of all models.
RECIPE = ARMS["tuned"]
METHOD = ("eval.inference_method=autoregressive", "eval.dream_length=1", "eval.eval_lite0=false")
# The model of many games, and that of a single one with its share of these operations, or with all of them.
TOGETHER, ALONE, ALONE_FULL = "together", "alone", "alone_full"
# The model of the held-out game that starts from nothing.
NOTHING = "nothing"


@dataclass(frozen=True)
class FineTuning:
    """How a model of many games is fine-tuned."""

    is_whole: bool  # the whole tokenizer, not its decoder alone
    rate: float  # learning rate


# With the decoder alone, as in the paper, token ids keep the meaning that the world model has learned; the whole
# tokenizer can learn to say what it could not. The rate is that of the presets that fine-tune to Cinderfoot.
FINE_TUNINGS = {
    "decoder": FineTuning(is_whole=False, rate=5e-4),
    "decoder_2e-3": FineTuning(is_whole=False, rate=2e-3),
    "whole": FineTuning(is_whole=True, rate=5e-4),
    "whole_2e-3": FineTuning(is_whole=True, rate=2e-3),
}


@dataclass(frozen=True)
class Trained:
    """Checkpoints and costs of a tokenizer and of its world model ("dynamics"), and their dataset."""

    paths: dict[str, Path]
    costs: dict[str, Cost]
    dataset: str


@dataclass(frozen=True)
class Result:
    """What a model does on held-out episodes of a game.

    `amount` is how many frames of the game it was meant to be trained on, `num_frames` how many they were.
    """

    game: str
    model: str
    amount: int
    seed: int
    num_frames: int
    costs: dict[str, Cost]
    metrics: dict[str, float]


@dataclass(frozen=True)
class ComparisonPlan:
    """What is trained and compared: `minutes` of an idle core stand for their number of operations."""

    trained: list[RecordedGame]
    held_out: list[RecordedGame]
    num_frames: int  # of each game
    amounts: list[int]  # frames of a held-out game
    minutes: float
    fine_tune_minutes: float
    arms: list[str]  # NOTHING and FINE_TUNINGS
    is_full: bool  # each model of one game with all of the operations, too


class ManyGamesExperiment:
    """All models of one seed; what is there already is not made again."""

    def __init__(self, root: Path, dpath: Path, plan: ComparisonPlan, seed: int):
        """`root`: with what does not depend on the operations; `dpath`: for models and results."""
        self.root, self.dpath, self.plan, self.seed = root, dpath, plan, seed
        self.datasets = Datasets(root, plan.num_frames)
        self.operations = plan.minutes * OPERATIONS_PER_MINUTE

    def run(self) -> None:
        """Train and evaluate what is missing. FieldError, before anything is trained, if a model would get no steps."""
        plan = self.plan
        self._check_budgets()
        together = self._train(TOGETHER, self._part("all", plan.trained, plan.num_frames), self.operations)
        for game in plan.trained:
            self._measure(game, TOGETHER, plan.num_frames, together)
            self._train_alone(game, ALONE, self.operations / len(plan.trained))
            if plan.is_full:
                self._train_alone(game, ALONE_FULL, self.operations)
        for game in plan.held_out:
            self._measure(game, TOGETHER, 0, together)
            for amount in plan.amounts:
                for arm in plan.arms:
                    self._fine_tune(game, amount, arm, together)

    def _check_budgets(self) -> None:
        """Of the models with the fewest operations: those of one game, and fine-tuned ones."""
        plan, budgets = self.plan, []
        alone = [(ALONE, game, plan.num_frames) for game in plan.trained]
        budgets.append(("--minutes", plan.minutes, self.operations / len(plan.trained), alone))
        tuned = [(arm, game, amount) for game in plan.held_out for amount in plan.amounts for arm in plan.arms]
        budgets.append(("--fine-tune-minutes", plan.fine_tune_minutes, self._fine_tune_operations, tuned))
        for option, minutes, operations, models in budgets:
            trainings = (
                training
                for model, game, amount in models
                for training in self._trainings(
                    f"{model}-{game.name}", self._part(game.name, [game], amount), operations, FINE_TUNINGS.get(model)
                ).values()
            )
            check_budget(trainings, self.datasets.dpath, option, minutes)

    @property
    def _fine_tune_operations(self) -> float:
        return self.plan.fine_tune_minutes * OPERATIONS_PER_MINUTE

    def _part(self, name: str, games: list[RecordedGame], num_frames: int) -> str:
        return self.datasets.part(name, games, num_frames, self.seed)

    def _train_alone(self, game: RecordedGame, model: str, operations: float) -> None:
        amount = self.plan.num_frames
        dataset = self._part(game.name, [game], amount)
        self._measure(game, model, amount, self._train(f"{model}-{game.name}", dataset, operations))

    def _fine_tune(self, game: RecordedGame, amount: int, arm: str, together: Trained) -> None:
        """A model of so many frames of a held-out game, from nothing or from the model of the other games."""
        dataset = self._part(game.name, [game], amount)
        start = None if arm == NOTHING else (FINE_TUNINGS[arm], together)
        trained = self._train(f"{arm}-{game.name}-{amount}", dataset, self._fine_tune_operations, start)
        self._measure(game, arm, amount, trained)

    def _trainings(
        self, name: str, dataset: str, operations: float, how: FineTuning | None = None
    ) -> dict[str, TrainingCommand]:
        """Of a tokenizer and its world model, which share the operations as the recipe says; without weights."""
        trainings = {}
        for part, kind in (("tokenizer", "tokenizer"), ("dynamics", "genie_redux_guided")):
            overrides, share = getattr(RECIPE, part), operations * RECIPE.shares[part]
            if how is not None and part == "tokenizer" and not how.is_whole:
                overrides = (*overrides, "train.train_decoder_only=true")
            run = f"{name}-seed{self.seed}"
            trainings[part] = TrainingCommand(part, kind, run, dataset, share, self.seed, overrides)
        return trainings

    def _train(
        self, name: str, dataset: str, operations: float, start: tuple[FineTuning, Trained] | None = None
    ) -> Trained:
        """A tokenizer and its world model, or what is there of them."""
        paths: dict[str, Path] = {}
        costs: dict[str, Cost] = {}
        for part, training in self._trainings(name, dataset, operations, start and start[0]).items():
            more = [f"tokenizer_fpath={path}" for path in paths.values()]
            if start is not None:
                how, model = start
                more += ["train.fine_tune=true", f"model_fpath={model.paths[part]}"]
                more += [f"optimizer.learning_rate={how.rate:g}"]
            paths[part], costs[part] = train(replace(training, more=tuple(more)), self.datasets.dpath, self.dpath)
        return Trained(paths, costs, dataset)

    def _measure(self, game: RecordedGame, model: str, amount: int, trained: Trained) -> None:
        """Write what the model does on a game's validation split, where that is missing.

        UserError if what is there was evaluated otherwise.
        """
        name = f"{game.name}-{model}-{amount}-seed{self.seed}"
        path = self.dpath / "results" / f"{name}.json"
        evaluation = self.dpath / "evaluation" / name
        if path.is_file():
            check_evaluated(evaluation, METHOD)
            return
        shared = self.root / "inverse_dynamics"
        clips = Evaluated(self.datasets.dpath, self.datasets.whole(game), "validation", shared)
        metrics = evaluate(trained.paths["dynamics"], clips, evaluation, METHOD)
        num_frames = self.datasets.num_training_frames(trained.dataset, game) if amount else 0
        result = Result(game.name, model, amount, self.seed, num_frames, trained.costs, metrics)
        write_atomically(path, json.dumps(asdict(result), indent=2) + "\n")


def stored(dpath: Path) -> list[Result]:
    """All results in the folder of an experiment."""
    return [
        Result(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted((dpath / "results").glob("*.json"))
    ]
