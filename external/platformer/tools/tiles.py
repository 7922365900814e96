"""Drawings of Cinderfoot's scenery: what stands in each metatile of 16x16, per theme."""

from collections.abc import Callable

Grid = list[list[int]]
Paint = Callable[[int, int], int]


def paint(color: Paint, width: int = 16, height: int = 16) -> Grid:
    """Grid (height, width) of colours 0 to 3, from the colour at (x, y)."""
    return [[color(x, y) for x in range(width)] for y in range(height)]


# --- Ground -----------------------------------------------------------------------------------------------------------

GRASS_EDGE = (5, 4, 4, 5, 6, 6, 5, 4, 3, 4, 5, 6, 6, 5, 4, 5)


def body(theme: str, x: int, y: int) -> int:
    """Colour inside of the ground at (x, y); repeats every 16 pixels."""
    if theme == "meadow":
        return 1 if (x, y) in {(3, 9), (4, 9), (11, 13), (12, 13), (10, 3), (11, 3), (2, 15), (14, 8)} else 2
    if theme == "cave":
        corner = (x + 2 * y // 3) % 16 in (0, 1) and y < 10
        return 1 if corner or (y == 10 and x > 3) or ((x - y) % 16 == 3 and y > 10) else 2
    if theme == "night":
        return 1 if (x % 8, y % 8) in {(1, 2), (2, 3), (3, 2), (5, 6), (6, 7), (7, 6)} else 2
    if theme == "desert":
        wave = (0, 0, 1, 1, 2, 2, 1, 1, 0, 0, -1, -1, -2, -2, -1, -1)[x]
        return 1 if (y - wave) % 8 == 5 and x % 8 != 3 else 2
    if theme == "snow":
        return 3 if (x + y) % 16 in (2, 3) and y % 16 < 9 else 1 if (x - y) % 16 == 9 and 6 < y < 14 else 2
    row = y // 8
    mortar = y % 8 == 7 or (x + 8 * row) % 16 == 15
    return 1 if mortar else 3 if y % 8 == 0 or (x + 8 * row) % 16 == 0 else 2


def cap(theme: str, x: int, y: int) -> int | None:
    """Colour of the ground's upper rim, or None beneath it."""
    if theme == "ruins":
        return 3 if y < 3 else 1 if y == 3 else None
    if theme == "desert":
        depth = 5 + (x // 4) % 2
    elif theme == "snow":
        depth = 6 + GRASS_EDGE[x] % 3
    elif theme == "cave":
        depth = 3 + GRASS_EDGE[(3 * x) % 16] % 2
    else:
        depth = GRASS_EDGE[x] + (2 if theme == "meadow" else 1)
    if y < depth:
        return 3
    return 1 if y == depth else None


def ground(theme: str, top: bool, side: int) -> Grid:
    """Ground with (top) or without rim, and a dark edge on its left (-1) or right (1) side."""

    def color(x: int, y: int) -> int:
        distance = x if side < 0 else 15 - x
        if side and top and distance + y < 2:
            return 0
        if side and distance < 2 and not (top and y < 3 and distance > 0):
            return 1
        rim = cap(theme, x, y) if top else None
        return body(theme, x, y) if rim is None else rim

    return paint(color)


# --- Things to stand on, climb, take and fear -----------------------------------------------------------------------


def block(theme: str) -> Grid:
    """A hewn stone."""

    def color(x: int, y: int) -> int:
        if x in (0, 15) or y in (0, 15):
            return 1
        if x == 1 or y == 1:
            return 3
        if x == 14 or y == 14:
            return 1
        return 1 if (x, y) in {(4, 4), (11, 4), (4, 11), (11, 11)} else 2

    return paint(color)


def block_top(theme: str) -> Grid:
    """Small bricks, for ceilings and walls."""

    def color(x: int, y: int) -> int:
        row = y // 4
        if y % 4 == 3 or (x + 4 * (row % 2)) % 8 == 7:
            return 1
        return 3 if y % 4 == 0 and (x + 4 * (row % 2)) % 8 < 3 else 2

    return paint(color)


def platform(theme: str) -> Grid:
    def color(x: int, y: int) -> int:
        if y in (0, 7):
            return 1
        if y < 7:
            return 1 if x % 8 == 7 else 3 if y < 3 else 2
        return 1 if y < 10 and x % 8 in (2, 3) else 0

    return paint(color)


def ladder(theme: str, top: bool = False) -> Grid:
    def color(x: int, y: int) -> int:
        if top and y < 3:
            return 1 if y == 2 else 3
        if x in (1, 4, 11, 14):
            return 1
        if x in (2, 3, 12, 13):
            return 3
        if 4 < x < 11 and y % 8 in (3, 4, 5):
            return 1 if y % 8 == 5 else 2
        return 0

    return paint(color)


def coin(theme: str) -> Grid:
    def color(x: int, y: int) -> int:
        dx, dy = (x - 7.5) / 5.6, (y - 7.5) / 7.2
        inner = ((x - 7.5) / 4.2) ** 2 + ((y - 7.5) / 5.8) ** 2
        if dx * dx + dy * dy > 1:
            return 0
        if inner > 1:
            return 1
        return 3 if 5 <= x <= 6 and 4 <= y <= 10 else 1 if x == 9 and 4 <= y <= 10 else 2

    return paint(color)


def spike(theme: str) -> Grid:
    def color(x: int, y: int) -> int:
        half = (y - 2) / 3.2
        distance = abs(x % 8 - 3.5)
        if y < 3 or distance > half:
            return 0
        if distance > half - 1.1 or y == 15:
            return 1
        return 3 if x % 8 < 4 else 2

    return paint(color)


def gate() -> Grid:
    """The goal, 32x48: an arch of gold around a white light."""

    def color(x: int, y: int) -> int:
        cx = abs(x - 15.5)
        radius = (cx * cx + (y - 16) ** 2) ** 0.5 if y < 16 else cx
        if radius > 16:
            return 0
        if radius > 14.4 or 9 < radius <= 10.2:
            return 1
        if radius > 10:
            return 2 if y % 8 else 1
        star = abs(x - 15.5) + abs(y - 26) * 0.8
        return 2 if 6 < star < 9 or star < 2.5 else 3

    return paint(color, 32, 48)


# --- Scenery --------------------------------------------------------------------------------------------------------


def liquid(theme: str, top: bool) -> Grid:
    def color(x: int, y: int) -> int:
        if not top:
            return 3 if (x % 16, y) in {(4, 5), (5, 5), (6, 5), (11, 12), (12, 12)} else 2
        wave = (2, 2, 3, 4, 5, 5, 4, 3)[x % 8]
        return 0 if y < wave else 3 if y < wave + 2 else 2

    return paint(color)


def bush(theme: str) -> Grid:
    if theme in ("cave", "ruins"):  # crystals; rubble

        def shard(x: int, y: int) -> int:
            near = min(abs(x - 4) * 2 + 4, abs(x - 10) * 2.4, abs(x - 14) * 3 + 8)
            return 0 if y < near + 2 else 3 if x in (4, 10) and y < 12 and theme == "cave" else 1

        return paint(shard)
    if theme == "desert":

        def cactus(x: int, y: int) -> int:
            stem = 6 <= x <= 9 and y > 1
            arms = (2 <= x <= 5 and 9 <= y <= 11) or (2 <= x <= 3 and 5 <= y <= 9)
            arms = arms or (10 <= x <= 13 and 7 <= y <= 9) or (12 <= x <= 13 and 3 <= y <= 8)
            return 2 if stem or arms else 0

        return paint(cactus)

    def leaves(x: int, y: int) -> int:
        blobs = ((4, 11, 5), (11, 11, 5), (8, 8, 5))
        inside = any((x - bx) ** 2 + (y - by) ** 2 <= r * r for bx, by, r in blobs)
        shine = theme == "snow" and any((x - bx) ** 2 + (y - by + 2) ** 2 <= r * r - 8 for bx, by, r in blobs)
        return 3 if inside and shine and y < 9 else 1 if inside else 0

    return paint(leaves)


def tall(theme: str) -> Grid:
    """Scenery of 16x32: a tree, a stalagmite, a statue."""

    def color(x: int, y: int) -> int:
        cx = abs(x - 7.5)
        if theme in ("meadow", "night"):
            if (x - 7.5) ** 2 / 56 + (y - 9) ** 2 / 90 <= 1:
                return 1
            return 1 if cx < 2 and y > 16 else 0
        if theme == "snow":
            if y > 27:
                return 1 if cx < 2 else 0
            width = (y % 10) * 0.55 + 1.5 + y / 10
            return 0 if cx > width else 3 if y % 10 < 3 else 1
        if theme == "desert":
            stem = cx < 2.6 and y > 3
            arms = (1 <= x <= 5 and 18 <= y <= 21) or (1 <= x <= 3 and 10 <= y <= 19)
            arms = arms or (10 <= x <= 14 and 14 <= y <= 17) or (12 <= x <= 14 and 7 <= y <= 16)
            return 2 if stem or arms else 0
        if theme == "cave":
            return 1 if cx < 1 + y / 5 else 0
        return 1 if (y < 4 and cx < 6) or (y > 27 and cx < 7) or (cx < 4 and y % 9 != 8 and y > 3) else 0

    return paint(color, 16, 32)


def cloud(theme: str) -> Grid:
    """32x16; a stalactite in the cave."""

    def color(x: int, y: int) -> int:
        if theme == "cave":
            return 1 if y < 15 - abs(x - 10) * 2.2 or y < 11 - abs(x - 22) * 2.2 else 0
        blobs = ((8, 10, 5), (16, 8, 7), (24, 10, 5))
        inside = any((x - bx) ** 2 + (y - by) ** 2 <= r * r for bx, by, r in blobs) and y < 14
        if theme in ("night", "ruins"):
            return 1 if inside else 0
        return 3 if inside else 0

    return paint(color, 32, 16)


def star(theme: str) -> Grid:
    if theme == "ruins":  # a window

        def window(x: int, y: int) -> int:
            return 1 if 4 <= x <= 11 and (y > 4 or (x - 7.5) ** 2 + (y - 5) ** 2 < 16) and y < 15 else 0

        return paint(window)
    bright = 3 if theme == "night" else 1

    def points(x: int, y: int) -> int:
        return bright if abs(x - 5) + abs(y - 6) < 2 or (x, y) in {(12, 12), (13, 12), (12, 13)} else 0

    return paint(points if theme in ("night", "cave") else lambda x, y: 0)


def hill(theme: str, kind: str) -> Grid:
    def color(x: int, y: int) -> int:
        inside = {"left": x + y >= 15, "right": y >= x, "fill": True}[kind.split("_")[-1]]
        if not inside:
            return 0
        if kind.startswith("peak") and theme == "snow" and y < 9 + (x % 4 > 1) * 3:
            return 3
        if theme == "desert" and y % 8 == 7:
            return 0
        return 1

    return paint(color)


def column(theme: str, top: bool) -> Grid:
    """A pillar in the background."""

    def color(x: int, y: int) -> int:
        cx = abs(x - 7.5)
        if top:
            return 1 if y < 5 or cx < 7 - (y - 5) * 0.3 else 0
        if theme == "ruins":
            return 1 if cx < 5 and x not in (5, 10) else 0
        return 1 if cx < 5 + (y % 16 in (3, 4, 5, 11)) else 0

    return paint(color)


def cut(grid: Grid, column_: int, row: int, width: int = 16, height: int = 16) -> Grid:
    """The part of `width` x `height` in a column and row of such parts."""
    return [line[column_ * width : (column_ + 1) * width] for line in grid[row * height : (row + 1) * height]]


def metatile(theme: str, name: str) -> Grid:
    """Grid (16, 16) of one metatile."""
    if name.startswith(("top", "fill")):
        side = -1 if name.endswith("_left") else 1 if name.endswith("_right") else 0
        return ground(theme, name.startswith("top"), side)
    if name.startswith("gate"):
        index = int(name[-1])
        return cut(gate(), index % 2, index // 2)
    if name.startswith(("hill", "peak")):
        return hill(theme, name)
    drawings: dict[str, Callable[[], Grid]] = {
        "sky": lambda: paint(lambda x, y: 0),
        "block": lambda: block(theme),
        "block_top": lambda: block_top(theme),
        "platform": lambda: platform(theme),
        "ladder": lambda: ladder(theme),
        "ladder_top": lambda: ladder(theme, top=True),
        "coin": lambda: coin(theme),
        "spike": lambda: spike(theme),
        "liquid_top": lambda: liquid(theme, top=True),
        "liquid": lambda: liquid(theme, top=False),
        "bush": lambda: bush(theme),
        "tall_top": lambda: cut(tall(theme), 0, 0),
        "tall_bottom": lambda: cut(tall(theme), 0, 1),
        "cloud_left": lambda: cut(cloud(theme), 0, 0),
        "cloud_right": lambda: cut(cloud(theme), 1, 0),
        "star": lambda: star(theme),
        "column_top": lambda: column(theme, top=True),
        "column": lambda: column(theme, top=False),
    }
    return drawings[name]()
