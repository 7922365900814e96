"""HTML as text. What is not markup already is escaped wherever it is put in, so no run can add elements to a page."""

import base64
import html
from collections.abc import Iterable, Sequence

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --panel: #f3f4f6; --text: #16181d; --quiet: #5d6675; --line: #d5d9e0; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14161b; --panel: #20242c; --text: #e8eaee; --quiet: #9aa3b2; --line: #343c49; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80em; padding: 1em 1.5em; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1em; margin: 1.6em 0 .5em; border-bottom: 1px solid var(--line); }
p { margin: .3em 0; color: var(--quiet); overflow-wrap: anywhere; }
table { border-collapse: collapse; }
td, th { border: 1px solid var(--line); padding: .15em .6em; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
th { background: var(--panel); font-weight: 600; }
.scroll { overflow: auto; max-height: 36em; }
.row { display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start; }
figure { margin: 0; padding: .5em; background: var(--panel); border-radius: 6px; max-width: 100%; }
.chart { width: 346px; }
figcaption { color: var(--quiet); overflow-wrap: anywhere; }
img { display: block; max-width: 100%; image-rendering: pixelated; }
svg text { fill: var(--quiet); font: 11px system-ui, sans-serif; }
.axis { stroke: var(--line); fill: none; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .8em; }
"""
# Nothing is loaded from anywhere and nothing runs, whatever the page holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, *content: str, **attributes: object) -> Markup:
    """An element. Content other than `Markup` is escaped; `class_` is the attribute class, `stroke_width` stroke-width.

    Attributes that are None are omitted.
    """
    pairs = [(key.strip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None]
    head = "".join(f' {key}="{html.escape(str(value))}"' for key, value in pairs)
    return Markup(f"<{name}{head}>{join(content)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """Parts one after the other; those that are not `Markup` are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(str(part)) for part in parts))


def section(title: str, *content: str) -> Markup:
    """Content below a heading; nothing where there is no content."""
    body = join(content)
    return join([tag("h2", title), body]) if body else Markup()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table that scrolls; nothing where it has no rows."""
    lines = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    if not lines:
        return Markup()
    first = [tag("tr", *(tag("th", cell) for cell in head))] if head else []
    return tag("div", tag("table", *first, *lines), class_="scroll")


def row(parts: Iterable[str]) -> Markup:
    """Parts next to each other; nothing where there are none."""
    content = list(parts)
    return tag("div", *content, class_="row") if content else Markup()


def image(data: bytes, media_type: str, caption: str) -> Markup:
    """An image in the page itself, above its caption."""
    source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    # `img` has no end tag.
    element = tag("img", src=source, alt=caption).removesuffix("</img>")
    return tag("figure", Markup(element), tag("figcaption", caption))


def document(title: str, *body: str) -> bytes:
    """A whole page, in UTF-8, that needs no other file and no network."""
    head = "".join(
        [
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            tag("title", title),
            f"<style>{_STYLE}</style>",
        ]
    )
    text = f'<!doctype html><html lang="en"><head>{head}</head><body>{join(body)}</body></html>\n'
    # Names of files may hold bytes that are no text.
    return text.encode("utf-8", "replace")
