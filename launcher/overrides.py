"""Checks overrides before Hydra composes the configuration, and explains in one line what Hydra refuses."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from launcher.commands import Command
from launcher.errors import one_line
from launcher.keys import Key, is_known, nearest_key, nearest_name, type_words


def group_choices(loader: ConfigLoader, group: str) -> list[str]:
    """All choices of a config group, those in its folders included (`retro_act/pretrain`); empty: no such group."""
    return sorted(_walk_group(loader, group, ""))


def _walk_group(loader: ConfigLoader, group: str, prefix: str) -> Iterator[str]:
    for name in loader.get_group_options(group, ObjectType.CONFIG):
        yield prefix + name
    for name in loader.get_group_options(group, ObjectType.GROUP):
        yield from _walk_group(loader, f"{group}/{name}", f"{prefix}{name}/")


def checked(
    overrides: Sequence[str], loader: ConfigLoader, command: Command, keys: Mapping[str, Key], is_multirun: bool
) -> list[str]:
    """The overrides as Hydra should get them. ValueError names the nearest key or preset for one that is unknown."""
    return [_checked(text, loader, command, keys, is_multirun) for text in overrides]


def _checked(text: str, loader: ConfigLoader, command: Command, keys: Mapping[str, Key], is_multirun: bool) -> str:
    text, override = _parse(text, loader)
    key = override.key_or_group
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return text
    if override.is_sweep_override() and not is_multirun:
        raise ValueError(
            f"{text}: several values need -m; a list is written {key}=[…], text with a comma '{key}=\"…\"'"
        )
    choices = group_choices(loader, key)
    if choices:
        return _checked_choice(text, override, choices, command)
    if not is_known(key, keys):
        raise ValueError(unknown_key(key, command, keys))
    return text


def _parse(text: str, loader: ConfigLoader) -> tuple[str, Override]:
    if "=" not in text and not text.startswith("~"):
        preset = text if text in group_choices(loader, "config") else ""
        raise ValueError(f"'{text}' is not an override: write {f'config={preset}' if preset else 'key=value'}")
    parser = OverridesParser.create(config_loader=loader)
    try:
        return text, parser.parse_override(text)
    except HydraException:
        pass
    # Paths may hold spaces, brackets or `=`: take such a value as it is.
    try:
        return quoted(text), parser.parse_override(quoted(text))
    except HydraException:
        raise ValueError(f"'{text}' is not an override: write key=value") from None


def quoted(override: str) -> str:
    """The override `key=value` with its value quoted, so that Hydra takes any characters in it as they are."""
    key, _, value = override.partition("=")
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def _checked_choice(text: str, override: Override, choices: list[str], command: Command) -> str:
    if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
        values = list(override.sweep_string_iterator())
    elif override.value_type == ValueType.ELEMENT and isinstance(override.value(), str):
        values = [str(override.value())]
    else:
        return text  # a deletion, `null`, or a glob over the choices
    found = [_choice(override.key_or_group, value, choices, command) for value in values]
    return text if found == values else f"{override.key_or_group}={','.join(found)}"


def _choice(group: str, value: str, choices: list[str], command: Command) -> str:
    """The choice that `value` names: `demo` is enough for `retro_act/demo` where only one preset ends so."""
    matches = [choice for choice in choices if choice.rpartition("/")[2] == value]
    if value in choices or len(matches) == 1:
        return value if value in choices else matches[0]
    near = nearest_name(value, choices)
    hint = f"did you mean '{near}'?" if near else f"there are {', '.join(choices)}"
    raise ValueError(f"{group}={value}: there is no such preset: {hint} (`python run.py {command.title} --help`)")


def unknown_key(name: str, command: Command, keys: Mapping[str, Key]) -> str:
    """One line on a key that no dataclass has."""
    leaves = [key.name for key in keys.values() if not key.is_group]
    near = nearest_key(name, leaves, preferred=command.mode or "")
    hint = f"did you mean '{near}'?" if near else "nothing is called like it."
    return f"unknown key '{name}': {hint} `python run.py {command.title} --help` lists the keys"


def explained(error: Exception, command: Command, keys: Mapping[str, Key]) -> ValueError:
    """What Hydra or OmegaConf refused, as one line with key, value and what was expected."""
    cause = _find(error, OmegaConfBaseException)
    source = _preset_of(error)
    key = str(cause.full_key) if cause is not None else ""
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and key and key not in keys:
        return ValueError(source + unknown_key(key, command, keys))
    if isinstance(cause, ValidationError) and key in keys:
        value = "null" if cause.value is None else cause.value
        return ValueError(f"{source}{key}={value}: expected {type_words(keys[key].type)}")
    missing = _find(error, MissingConfigException)
    if isinstance(missing, MissingConfigException) and missing.missing_cfg_file:
        options = ", ".join(missing.options or []) or "none"
        return ValueError(f"there is no configuration '{missing.missing_cfg_file}'; available: {options}")
    if cause is not None:
        return ValueError(f"{source}{key}: {one_line(cause).partition(' full_key:')[0]}")
    return ValueError(one_line(error))


def _find(error: BaseException | None, kind: type) -> Any:
    """The first exception of a kind in the chain of causes; one that names its key if there is any."""
    found = None
    while error is not None:
        if isinstance(error, kind):
            if getattr(error, "full_key", None):
                return error
            found = found or error
        error = error.__cause__ or error.__context__
    return found


def _preset_of(error: Exception) -> str:
    """`in config/tokenizer: ` if Hydra says that the mistake is in that file."""
    text = one_line(error)
    if isinstance(error, HydraException) and text.startswith("In '"):
        return f"in {text[4:].partition(chr(39))[0]}.yaml: "
    return ""
