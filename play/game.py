"""The real game, played beside the model in a process of its own: an emulator needs one for itself."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from data_generation.config import ConnectorConfig
from data_generation.data.errors import UNSET, FieldError, UserError
from data_generation.data.number_ranges import NumberRanges
from data_generation.generator.child import Child, ChildEnd, call_in_child
from data_generation.generator.connector_base import Connector, make_connector
from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.levels import Level, LevelEnv, Transition, num_levels
from data_generation.generator.recorded import RecordedState
from models.config import ModelConfig
from play.starts import PlayedState, Start, game_start

# Levels of a game that are listed, and of those that a model was trained on.
MAX_LEVELS = 200
# Steps of an episode: nobody plays that long.
_MAX_STEPS = 10**9


class RealGame:
    """A game that is put into any of its states and stepped. Calls wait for the process: make them in a thread.

    They raise what the game cannot do here: UserError or EnvironmentFault.
    """

    def __init__(self, connector: Connector):
        seconds = connector.config.generator_config.step_seconds
        self._child = Child("game beside the model", seconds, _serve, connector)

    def start(self, state: PlayedState, num_frames: int) -> Start:
        """Put the game into a state; its last frames there."""
        start: Start = self._ask((state, num_frames))
        return start

    def find_seed(self, state: RecordedState) -> int:
        """The seed of a recorded episode's reset. UserError where the game shows other frames than were recorded."""
        seed: int | None = self._ask(state)
        if seed is None:
            raise UserError(f"'{state.level.game}' renders other frames on this machine than were recorded")
        return seed

    def step(self, action: int) -> Transition:
        """Play an action."""
        step: Transition = self._ask(action)
        return step

    def _ask(self, request: Any) -> Any:
        self._child.send(request)
        answer = self._child.receive()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._child.terminate()
        self._child.close()


def _serve(end: ChildEnd, connector: Connector) -> None:
    """Body of the process.

    (state, number of frames) starts an episode, a number is an action, a recorded state asks for its seed.
    """
    env = LevelEnv(connector, _MAX_STEPS, end.beat)
    for request in end.requests():
        answer: Start | Transition | int | Exception | None
        try:
            match request:
                case int():
                    answer = env.step(request)
                case RecordedState():
                    answer = request.find_seed(env)
                case _:
                    answer = game_start(env, *request)
        except (EnvironmentFault, UserError) as error:
            env.close()
            answer = error
        end.send(answer)
    env.close()


def recorded_game(config: ModelConfig, game: str) -> Connector:
    """The game of a model, with its frames and actions; `game` where the model does not say which that is.

    The other settings are the defaults, and so is the frame skip where the model does not say it.
    """
    return make_connector(
        ConnectorConfig(
            game=[next(iter(config.levels), game)],
            image_size=config.tokenizer.image_size,
            n_skip_frames=config.n_skip_frames or ConnectorConfig().n_skip_frames,
            valid_action_combos=config.action_names,
            roi_annotation_fpath=config.roi_table or None,
        )
    )


def listed_levels(connector: Connector, game: str, trained: str) -> list[Level]:
    """The first levels of a game, and those of `trained` ("0-11, 15")."""
    return _levels(connector, game, sorted({*range(MAX_LEVELS), *_first_of(trained)}))


def _first_of(trained: str) -> list[int]:
    return list(islice(NumberRanges(trained), MAX_LEVELS))


def _levels(connector: Connector, game: str, instances: Sequence[int]) -> list[Level]:
    """Those of the levels that the game has here."""
    count = num_levels(connector, game, 1 + max(instances, default=-1))
    return [Level(game, instance) for instance in instances if instance < count]


def level_starts(config: ModelConfig, instances: Sequence[int] = ()) -> list[Start]:
    """The beginnings of levels that a model was trained on: of `instances`, or of all. FieldErrors of `starts`.

    And of `dataset_dpath`, which is the other way to start.
    """
    if not config.levels:
        problem = "is not set, and the model does not say on which levels it was trained"
        raise FieldError("dataset_dpath", UNSET, problem, "give the folder of a dataset")
    game, known = next(iter(config.levels.items()))
    connector = recorded_game(config, game)
    levels = _levels(connector, game, instances or _first_of(known))
    there = {level.instance for level in levels}
    if wrong := [instance for instance in instances if instance not in there]:
        count = num_levels(connector, game, 1 + wrong[0])
        raise FieldError("starts", wrong[0], "is not a level of the game", f"use 0 to {count - 1}")
    if not levels:
        problem = f"is not set, and the game has none of the model's levels ({known}) here"
        raise FieldError("dataset_dpath", UNSET, problem, "give the folder of a dataset")
    return _in_any_process(connector, levels)


def _in_any_process(connector: Connector, levels: Sequence[Level]) -> list[Start]:
    """The levels' beginnings. This process may hold an emulator already, and then takes no other one beside it.

    Here first: scripts without `if __name__ == "__main__"` and workers of Gymnasium's start no processes.
    """
    try:
        return _beginnings(lambda _: None, connector, levels)[0]
    except EnvironmentFault:
        pass
    try:
        seconds = connector.config.generator_config.step_seconds
        starts: list[Start] = call_in_child(seconds, _beginnings, connector, levels)
        return starts
    except EnvironmentFault as error:
        problem = f"is not set, and the model's game cannot be played here ({error})"
        raise FieldError("dataset_dpath", UNSET, problem, "give the folder of a dataset") from error


def _beginnings(
    beat: Callable[[str], None], connector: Connector, levels: Sequence[Level]
) -> tuple[list[Start], Callable[[], None]]:
    """The levels' first frames, and nothing to do afterwards (see `call_in_child`)."""
    env = LevelEnv(connector, 1, beat)
    try:
        return [game_start(env, PlayedState(level, 0), 1) for level in levels], lambda: None
    finally:
        env.close()
