"""Text as it was typed: `2024_01_15`, `1e-3` and `true` are a number, a number and a truth value to Hydra's grammar.

The parser and its visitor have no public interface (docs: "override grammar"), so pyproject.toml bounds hydra-core.
"""

from typing import Any

from hydra.core.override_parser.overrides_parser import (
    CommonTokenStream,
    InputStream,
    OverrideLexer,
    OverrideParser,
    create_functions,
)
from hydra.core.override_parser.overrides_visitor import HydraErrorListener, HydraOverrideVisitor
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException


def with_typed_text(text: str, keeps_null: bool) -> str:
    """An override of a key that takes text, with quotes around each value that Hydra would take for something else.

    The values are one word, the items of a list, the values of a mapping, or the choices of a sweep. `keeps_null`: an
    unquoted null is the absence of a text.
    """
    visitor = _Visitor(keeps_null)
    try:
        override = visitor.visit(_parser_of(text).override())
    except HydraException:
        # A function of Hydra's that takes numbers, such as range(1,4).
        return text
    assert isinstance(override, Override)
    if not visitor.has_quoted:
        return text
    override.input_line = text
    if override.is_choice_sweep():
        # Quoted again: functions such as choice(…) take the quotes away.
        value = ",".join(_element(choice) for choice in override.sweep_iterator())
    else:
        value = override.get_value_element_as_str()
    return f"{text.partition('=')[0]}={value}"


def _element(choice: Any) -> str:
    value = QuotedString(choice, Quote.single) if isinstance(choice, str) else choice
    return Override._get_value_element_as_str(value)


def _parser_of(text: str) -> OverrideParser:
    lexer = OverrideLexer(InputStream(text))
    parser = OverrideParser(CommonTokenStream(lexer))
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(HydraErrorListener())
    return parser


class _Visitor(HydraOverrideVisitor):
    """Reads an override; words that are no text become quoted strings of what was typed."""

    def __init__(self, keeps_null: bool):
        super().__init__(create_functions())
        self.keeps_null = keeps_null
        self.has_quoted = False

    def visitPrimitive(self, ctx: Any) -> Any:
        value = super().visitPrimitive(ctx)
        if isinstance(value, str | QuotedString) or (value is None and self.keeps_null):
            return value
        self.has_quoted = True
        return QuotedString(ctx.getText().strip(), Quote.single)
