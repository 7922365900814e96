"""The spellings that a command line may use, converted to Hydra's own."""

from collections.abc import Sequence

from data_generation.data.errors import UserError
from launcher.commands import Command

# Old name of a key → its name now.
RENAMED_KEYS = {
    "eval.model_path": "eval.model_fpath",
    "recorded_around": "roi_table",
    "training.actor_critic.start_after": "training.actor_critic.start_after_epochs",
    "collection.train.config.episilon": "collection.train.config.epsilon",
    "collection.test.config.episilon": "collection.test.config.epsilon",
}


def respell(arguments: Sequence[str], command: Command) -> tuple[list[str], list[str]]:
    """Overrides in Hydra's spelling, and notes for the user on renamed keys.

    `--key=value` becomes `key=value`, `--mode=<mode>` is dropped, renamed keys get their new name.
    UserError for an unknown option and for a `--mode` that contradicts the command's.
    """
    overrides, notes = [], []
    for argument in arguments:
        if argument.startswith("-") and not (argument.startswith("--") and "=" in argument):
            raise UserError(f"unknown option '{argument}': write key=value or --key=value")
        argument = argument.removeprefix("--")
        name, _, value = argument.partition("=")
        # Hydra's signs for adding and deleting a key.
        key = name.lstrip("+~")
        if key == "mode" and value:
            if value != command.mode:
                raise UserError(f"mode={value} contradicts the command '{command.title}': omit it")
            continue
        if key in RENAMED_KEYS:
            notes.append(f"'{key}' is now called '{RENAMED_KEYS[key]}'")
            argument = argument.replace(key, RENAMED_KEYS[key], 1)
        overrides.append(argument)
    return overrides, notes
