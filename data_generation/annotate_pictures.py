"""Clips of a game's actions as files: a GIF each, one contact sheet, and a page that shows them side by side."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_generation.data.files import atomic_path, write_atomically
from data_generation.generator.action_clips import HOLD_FRAMES, Clip

_COLUMNS = 8  # pictures per action on the sheet
_LABEL_HEIGHT, _GAP = 16, 2
_STYLE = (
    "body{font-family:sans-serif;margin:1.5em;background:#fff;color:#222}figure{display:inline-block;margin:.5em}"
    "img{image-rendering:pixelated;width:20em;display:block}figcaption{max-width:20em}"
    "td,th{padding:.2em .8em;text-align:left}"
)


def write_pictures(dpath: Path, game: str, clips: Sequence[Clip], present: Mapping[str, str]) -> Path:
    """`<action>.gif`, `sheet.png` and `index.html` in the folder; returns the page's path.

    `present`: what the tables say of the game now.
    """
    gifs = {clip.action: dpath / f"{clip.action}.gif" for clip in clips}
    for clip in clips:
        _write_gif(gifs[clip.action], clip)
    _write_sheet(dpath / "sheet.png", game, clips, present)
    page = dpath / "index.html"
    write_atomically(page, _page(game, clips, gifs, present))
    return page


def caption(clip: Clip, present: Mapping[str, str]) -> str:
    """An action, its button, what the table says of it, and how much it changes the picture."""
    said = f", table: {present[clip.action]}" if clip.action in present else ""
    changes = f", {clip.difference:.2%} of the pixels differ from doing nothing" if clip.buttons else ""
    return f"{clip.action} ({clip.buttons or 'no button'}){said}{changes}"


def _write_gif(path: Path, clip: Clip) -> None:
    first, *others = (Image.fromarray(picture) for picture in clip.pictures)
    duration = round(100 * HOLD_FRAMES / 60) * 10  # GIF times are multiples of 10 ms
    with atomic_path(path) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=others, duration=duration, loop=0)


def _write_sheet(path: Path, game: str, clips: Sequence[Clip], present: Mapping[str, str]) -> None:
    height = max(picture.shape[0] for clip in clips for picture in clip.pictures)
    width = max(picture.shape[1] for clip in clips for picture in clip.pictures)
    row_height = height + _LABEL_HEIGHT + _GAP
    sheet = Image.new("RGB", (_COLUMNS * (width + _GAP), _LABEL_HEIGHT + len(clips) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 2), f"{game}, table: {present.get('tags', 'no row')}", fill="black")
    for row, clip in enumerate(clips):
        top = _LABEL_HEIGHT + row * row_height
        draw.text((2, top + 2), caption(clip, present), fill="black")
        times = np.linspace(0, len(clip.pictures) - 1, _COLUMNS).round().astype(int).tolist()
        for column, time in enumerate(times):
            place = (column * (width + _GAP), top + _LABEL_HEIGHT)
            sheet.paste(Image.fromarray(clip.pictures[time]), place)
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")


def _page(game: str, clips: Sequence[Clip], gifs: Mapping[str, Path], present: Mapping[str, str]) -> str:
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
