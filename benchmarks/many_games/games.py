"""The free games, and how `generate` records them: all with the same actions, so that one model learns all."""

import importlib.util
from dataclasses import dataclass

# Two buttons: to jump, and to shoot where that is another one. Procgen and Atari know them by these names, too.
ACTIONS = ("RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP", "ACTION_SECONDARY")
THEMES = ("meadow", "cave", "night", "desert", "snow", "ruins")
PROCGEN = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot", "heist", "jumper"),
    *("leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)
ATARI = ("Breakout", "DemonAttack", "Freeway", "Frostbite", "Kangaroo", "MsPacman", "Pong", "SpaceInvaders")
# Installed by `bash install.sh --with <extra>`.
EXTRAS = {"procgen": "coinrun", "ale_py": "atari"}
_CONNECTOR = "config.connector"


@dataclass(frozen=True)
class Recording:
    """What one command `generate` records."""

    name: str
    preset: str
    game: str
    dataset: str  # its name, without dname
    package: str = ""  # of EXTRAS; "" = none
    n_instances: int = 1

    @property
    def num_steps(self) -> int:
        """Of an episode, at most: a game of one start needs longer ones to show more than its beginning."""
        return 250 if self.n_instances == 1 else 100

    @property
    def is_installed(self) -> bool:
        """Whether there is what plays it."""
        return not self.package or importlib.util.find_spec(self.package) is not None

    def arguments(self, num_sessions: int) -> tuple[str, ...]:
        """Of `python run.py`, without the place of the dataset."""
        return (
            *("generate", f"config={self.preset}", f"{_CONNECTOR}.game=[{self.game}]"),
            *(f"{_CONNECTOR}.valid_action_combos=[{','.join(ACTIONS)}]", f"{_CONNECTOR}.variant=sticky_random"),
            *(f"{_CONNECTOR}.agent.repeat_probability=0.8", f"{_CONNECTOR}.generator_config.n_workers=1"),
            *(f"{_CONNECTOR}.generator_config.n_instances={self.n_instances}",),
            *(f"{_CONNECTOR}.generator_config.n_sessions={num_sessions}",),
            *(f"{_CONNECTOR}.generator_config.n_steps_max={self.num_steps}",),
        )


@dataclass(frozen=True)
class RecordedGame:
    """An environment of the experiment: a recording, or every `THEMES`-th instance of it from `theme` on."""

    name: str
    recording: Recording
    theme: int | None = None


def _all_games() -> dict[str, RecordedGame]:
    cinderfoot = Recording("cinderfoot", "retro_act/cinderfoot", "Cinderfoot-Nes", "retro_act_v0.0.0", n_instances=30)
    recordings = [Recording("airstriker", "retro_act/airstriker", "Airstriker-Genesis", "retro_act_v0.0.0")]
    for game in PROCGEN:
        recordings.append(Recording(game, "procgen/random", game, "procgen_v0.0.0", "procgen", n_instances=20))
    for game in ATARI:
        recordings.append(Recording(game.lower(), "gymnasium/ale", f"ALE/{game}-v5", "gymnasium_v0.0.0", "ale_py"))
    # The level of an instance has the theme of its number.
    games = [RecordedGame(f"cinderfoot_{name}", cinderfoot, theme) for theme, name in enumerate(THEMES)]
    games += [RecordedGame(recording.name, recording) for recording in recordings]
    return {game.name: game for game in games}


GAMES = _all_games()
# Platformers and shooters above all, from every family: more would leave each model of one game hardly any operations.
DEFAULT_GAMES = (
    *(f"cinderfoot_{name}" for name in THEMES),
    *("airstriker", "coinrun", "climber", "jumper", "ninja", "starpilot"),
    *("demonattack", "frostbite", "kangaroo", "spaceinvaders"),
)
# One with relatives among the others, and one without.
DEFAULT_HELD_OUT = ("cinderfoot_ruins", "airstriker")


def installed(names: list[str]) -> list[RecordedGame]:
    """The games that can be played here; one line for each of the others."""
    games = [GAMES[name] for name in names]
    for game in games:
        package = game.recording.package
        if not game.recording.is_installed:
            print(f"{game.name}: skipped, {package} is missing: bash install.sh --with {EXTRAS[package]}", flush=True)
    return [game for game in games if game.recording.is_installed]
