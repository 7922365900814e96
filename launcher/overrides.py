"""Checks overrides before Hydra composes the configuration, and explains in one line what Hydra refuses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString, ValueType
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from data_generation.data.errors import UserError
from data_generation.data.fields import expand_home, split_hint
from launcher.commands import Command
from launcher.errors import one_line
from launcher.hydra_app import group_options
from launcher.keys import Key, did_you_mean, key_of, type_words
from launcher.typed_text import with_typed_text


@dataclass(frozen=True)
class OverrideChecker:
    """What an override may say: the keys of a command, and the choices of its config groups."""

    command: Command
    keys: Mapping[str, Key]
    # Overrides that say where else Hydra looks for config groups.
    search_path: tuple[str, ...] = ()

    @cached_property
    def _options(self) -> Callable[[str, ObjectType], list[str]]:
        return group_options(self.search_path)

    def choices(self, group: str) -> list[str]:
        """All choices of a config group, those in its folders included (`retro_act/pretrain`); empty: no such group."""
        return sorted(self._walk_group(group, ""))

    def _walk_group(self, group: str, prefix: str) -> Iterator[str]:
        for name in self._options(group, ObjectType.CONFIG):
            yield prefix + name
        for name in self._options(group, ObjectType.GROUP):
            yield from self._walk_group(f"{group}/{name}", f"{prefix}{name}/")

    def check(self, text: str, is_multirun: bool) -> str:
        """The override as Hydra should get it. UserError names the nearest key or preset for one that is unknown."""
        text, override = self._parse(text)
        key = override.key_or_group
        if key in ("hydra.run.dir", "hydra.sweep.dir") and isinstance(override.value(), str):
            return f"{key}={quoted(expand_home(key, str(override.value())))}"
        if key == "hydra" or key.startswith(("hydra.", "hydra/")):
            return text
        if override.is_sweep_override() and not is_multirun:
            raise UserError(
                f"{text}: several values need -m; a list is written {key}=[…], text with a comma '{key}=\"…\"'"
            )
        # A key has dots, a group slashes.
        if "." not in key and (choices := self.choices(key)):
            return self._with_full_choices(text, override, choices)
        known = key_of(key, self.keys)
        if known is None:
            raise UserError(self._unknown_key(key))
        if override.is_delete():
            return self._checked_deletion(text, key)
        # To OmegaConf, any number but 0 is true.
        is_number = isinstance(override.value(), int | float) and not isinstance(override.value(), bool)
        if known.type is bool and is_number and override.value() not in (0, 1):
            raise UserError(f"{text}: expected true or false")
        text = _with_text(text, override, known) if known.takes_text else text
        # Hydra merges a mapping into the one that is there, and refuses new names in it unless it is forced to.
        is_mapping = known.is_open and isinstance(override.value(), dict)
        return f"++{text}" if is_mapping and override.type is OverrideType.CHANGE else text

    def _checked_deletion(self, text: str, key: str) -> str:
        """UserError for a key of the dataclasses, which would come back with its default."""
        if key not in self.keys:
            return text
        remedy = f"write {key}=null" if self.keys[key].is_optional else "omit this"
        raise UserError(f"{text}: a key of the command cannot be deleted; {remedy}")

    def swept(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """The keys to which the overrides give several values."""
        parsed = (self._parse(text)[1] for text in overrides)
        return tuple(override.key_or_group for override in parsed if override.is_sweep_override())

    def _parse(self, text: str) -> tuple[str, Override]:
        if "=" not in text and not text.startswith("~"):
            preset = text if text in self.choices("config") else ""
            raise UserError(f"'{text}' is not an override: write {f'config={preset}' if preset else 'key=value'}")
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        # Paths may hold spaces, brackets or `=`: take such a value as it is.
        key, _, value = text.partition("=")
        for spelling in (text, f"{key}={quoted(value)}"):
            try:
                return spelling, parser.parse_override(spelling)
            except HydraException:
                continue
        raise UserError(f"'{text}' is not an override: write key=value")

    def _with_full_choices(self, text: str, override: Override, choices: list[str]) -> str:
        if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
            values = list(override.sweep_string_iterator())
        elif override.is_delete() or override.value_type != ValueType.ELEMENT:
            return text  # a deletion, or a glob over the choices
        elif isinstance(override.value(), str | QuotedString):
            values = [str(override.value())]
        elif text.partition("=")[2] in choices:
            return f"{override.key_or_group}={quoted(text.partition('=')[2])}"  # a name that looks like a number
        else:
            raise UserError(f"{text}: expected the name of a preset: {', '.join(choices)}")
        found = [self._choice(override.key_or_group, value, choices) for value in values]
        return text if found == values else f"{text.partition('=')[0]}={','.join(found)}"

    def _choice(self, group: str, value: str, choices: list[str]) -> str:
        """The choice that `value` names, with or without file suffix.

        `demo` is enough for `retro_act/demo` where only one preset ends so.
        """
        path = PurePath(value)
        name = str(path.with_suffix("")) if path.suffix in (".yaml", ".yml", ".json") else value
        matches = [choice for choice in choices if choice.rpartition("/")[2] == name]
        if name in choices or len(matches) == 1:
            return name if name in choices else matches[0]
        hint = did_you_mean(name, choices, f"there are {', '.join(choices)}")
        help_command = f"python run.py {self.command.title} --help"
        raise UserError(f"{group}={value}: there is no such preset: {hint} (`{help_command}`)")

    def _unknown_key(self, name: str) -> str:
        """One line on a key that no dataclass has."""
        leaves = [key.name for key in self.keys.values() if not key.is_group]
        hint = did_you_mean(name, leaves, "nothing is called like it.", preferred=self.command.mode or "")
        return f"unknown key '{name}': {hint} `python run.py {self.command.title} --help` lists the keys"

    def explain(self, error: Exception) -> UserError:
        """What Hydra or OmegaConf refused, as one line with key, value and what was expected."""
        cause = _find(error, OmegaConfBaseException)
        source = _preset_of(error)
        key = str(cause.full_key) if cause is not None else ""
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and key and key not in self.keys:
            return UserError(source + self._unknown_key(key))
        if isinstance(cause, ValidationError) and key in self.keys:
            value = "null" if cause.value is None else cause.value
            return UserError(f"{source}{key}={value}: expected {type_words(self.keys[key].type)}")
        missing = _find(error, MissingConfigException)
        if isinstance(missing, MissingConfigException) and missing.missing_cfg_file:
            group, _, name = str(missing.missing_cfg_file).rpartition("/")
            if group == "hydra/launcher" and name.startswith(("submitit", "joblib", "ray")):
                extra = "ray" if name.startswith("ray") else "launchers"
                return UserError(f"hydra/launcher: '{name}' is not installed: run 'bash install.sh --with {extra}'")
            options = ", ".join(missing.options or []) or "none"
            return UserError(f"there is no configuration '{missing.missing_cfg_file}'; available: {options}")
        return UserError(source + omegaconf_line(cause) if cause is not None else one_line(error))


def _with_text(text: str, override: Override, key: Key) -> str:
    """The override of a key that takes text, with values as they were typed."""
    if (
        split_hint(key.annotated)[0] is str
        and not override.is_sweep_override()
        and isinstance(override.value(), list | dict)
    ):
        name, _, value = text.partition("=")
        return f"{name}={quoted(value)}"
    return with_typed_text(text, keeps_null=key.is_optional)


def quoted(value: str) -> str:
    """A value in quotes, so that Hydra takes any characters in it as they are."""
    return QuotedString(value, Quote.single).with_quotes()


def omegaconf_line(error: OmegaConfBaseException) -> str:
    """`key: what is wrong` in one line, without the context that OmegaConf appends."""
    return f"{error.full_key}: {one_line(error).partition(' full_key:')[0]}"


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
    """`in config/tokenizer.yaml: ` if Hydra says that the mistake is in that file."""
    text = one_line(error)
    if isinstance(error, HydraException) and text.startswith("In '"):
        return f"in {text.split(chr(39))[1]}.yaml: "
    return ""
