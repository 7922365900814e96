"""Clips of a game's actions as files: a GIF each, one contact sheet, and a page that shows them side by side."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_generation.data.files import write_atomically
from data_generation.data.media import SheetRow, contact_sheet, write_gif, write_png
from data_generation.generator.action_clips import HOLD_FRAMES, ActionClip

# Images per action on the sheet.
_COLUMNS = 8
_STYLE = (
    "body{font-family:sans-serif;margin:1.5em;background:#fff;color:#222}figure{display:inline-block;margin:.5em}"
    "img{image-rendering:pixelated;width:20em;display:block}figcaption{max-width:20em}"
    "td,th{padding:.2em .8em;text-align:left}"
)


def write_page(dpath: Path, game: str, clips: Sequence[ActionClip], present: Mapping[str, str]) -> Path:
    """`<action>.gif`, `sheet.png` and `index.html` in the folder; returns the page's path.

    `present`: the game's present values in the tables.
    """
    gifs = {clip.action: dpath / f"{clip.action}.gif" for clip in clips}
    for clip in clips:
        write_gif(gifs[clip.action], clip.images, 60 / HOLD_FRAMES)
    title = f"{game}, table: {present.get('tags', 'no row')}"
    write_png(dpath / "sheet.png", contact_sheet([_sheet_row(clip, present) for clip in clips], title))
    page = dpath / "index.html"
    write_atomically(page, _page(game, clips, gifs, present))
    return page


def caption(clip: ActionClip, present: Mapping[str, str]) -> str:
    """An action, its button, its value in the table, and how much it changes the image."""
    said = f", table: {present[clip.action]}" if clip.action in present else ""
    changes = f", {clip.difference:.2%} of the pixels differ from doing nothing" if clip.buttons else ""
    return f"{clip.action} ({clip.buttons or 'no button'}){said}{changes}"


def _sheet_row(clip: ActionClip, present: Mapping[str, str]) -> SheetRow:
    times = np.linspace(0, len(clip.images) - 1, _COLUMNS).round().astype(int).tolist()
    return SheetRow(caption(clip, present), [clip.images[time] for time in times])


def _page(game: str, clips: Sequence[ActionClip], gifs: Mapping[str, Path], present: Mapping[str, str]) -> str:
    """One HTML file that needs no other."""
    figures = []
    for clip in clips:
        data = base64.b64encode(gifs[clip.action].read_bytes()).decode()
        text = html.escape(caption(clip, present))
        figures.append(
            f'<figure><img alt="{text}" src="data:image/gif;base64,{data}"><figcaption>{text}</figcaption></figure>'
        )
    cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in present.items())
    title = html.escape(game)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>From the start state: nothing, then the button held for 0.8 seconds, then nothing.</p>"
        f"{''.join(figures)}<h2>In the tables now</h2><table>{cells or '<tr><td>no row</td></tr>'}</table></html>\n"
    )
