"""The spellings that a command line may use, brought into Hydra's own."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# Old name of a key → its name now.
RENAMED_KEYS = {
    "eval.model_path": "eval.model_fpath",
    "training.actor_critic.start_after": "training.actor_critic.start_after_epochs",
    "collection.train.config.episilon": "collection.train.config.epsilon",
    "collection.test.config.episilon": "collection.test.config.epsilon",
}
_SUFFIX = re.compile(r"\.(ya?ml|json)(?=\s*(,|$))")
_OVERRIDE = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[^=\s]+)(?P<rest>=.*)?", re.DOTALL)


@dataclass
class Spelled:
    """A command line in Hydra's spelling, and notes for the user on what was changed."""

    arguments: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def respell(arguments: Sequence[str], mode: str | None, options: Iterable[str], groups: Iterable[str]) -> Spelled:
    """Bring a command line into Hydra's spelling.

    `--key=value` becomes `key=value` unless it is one of Hydra's `options`; `--mode=<mode>` is dropped; choices of
    `groups` lose their file suffix; renamed keys get their new name, with a note.
    Raises ValueError for a `--mode` that contradicts the command's.
    """
    known_options, config_groups = set(options), set(groups)
    spelled = Spelled()
    for argument in arguments:
        if argument.startswith("--") and "=" in argument and argument.partition("=")[0] not in known_options:
            argument = argument[2:]
        match = _OVERRIDE.fullmatch(argument)
        if argument.startswith("-") or match is None or match["rest"] is None:
            spelled.arguments.append(argument)
            continue
        sign, key, rest = match["sign"] or "", match["key"], match["rest"]
        if key == "mode":
            _check_mode(rest[1:], mode)
            continue
        if key in RENAMED_KEYS:
            spelled.notes.append(f"'{key}' is now called '{RENAMED_KEYS[key]}'")
            key = RENAMED_KEYS[key]
        if key in config_groups:
            rest = _SUFFIX.sub("", rest)
        spelled.arguments.append(sign + key + rest)
    return spelled


def _check_mode(value: str, mode: str | None) -> None:
    if value != mode:
        command = f"the command's mode '{mode}'" if mode else "a command without modes"
        raise ValueError(f"mode={value} contradicts {command}: leave it out")
