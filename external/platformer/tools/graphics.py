"""Draws Cinderfoot's tiles and writes the pattern tables and the tables of metatiles and palettes for the build.

Sprites are text files (../graphics); the scenery is drawn in tiles.py. Needs only Python.
"""

from pathlib import Path

from external.platformer.tools.tiles import Grid, cut, metatile

GRAPHICS_DPATH = Path(__file__).parent.parent / "graphics"
THEMES = ("meadow", "cave", "night", "desert", "snow", "ruins")

# Metatiles (16x16) in the order of their ids; `P` their palette, `F` their properties, as in src/game.h.
SOLID, ONEWAY, LADDER, COIN, HAZARD, GOAL, HILL = 1, 2, 4, 8, 16, 32, 64
METATILES = (
    ("sky", 0, 0), ("top", 0, SOLID), ("top_left", 0, SOLID), ("top_right", 0, SOLID),
    ("fill", 0, SOLID), ("fill_left", 0, SOLID), ("fill_right", 0, SOLID), ("block", 2, SOLID),
    ("platform", 2, ONEWAY), ("ladder", 2, LADDER), ("ladder_top", 2, LADDER | ONEWAY), ("coin", 3, COIN),
    ("spike", 3, HAZARD), ("gate_0", 3, GOAL), ("gate_1", 3, GOAL), ("gate_2", 3, GOAL),
    ("gate_3", 3, GOAL), ("gate_4", 3, GOAL), ("gate_5", 3, GOAL), ("liquid_top", 1, HAZARD),
    ("liquid", 1, HAZARD), ("bush", 1, 0), ("tall_top", 1, 0), ("tall_bottom", 1, 0),
    ("cloud_left", 1, 0), ("cloud_right", 1, 0), ("star", 1, 0), ("hill_left", 1, HILL),
    ("hill_right", 1, HILL), ("hill_fill", 1, HILL), ("peak_left", 1, HILL), ("peak_right", 1, HILL),
    ("column_top", 1, HILL), ("column", 1, HILL), ("block_top", 2, SOLID),
)  # fmt: skip

# Colours of the console: backdrop, then ground, scenery, wood and stone, treasure (three each).
PALETTES = {
    "meadow": (0x21, (0x07, 0x17, 0x2A), (0x3A, 0x12, 0x30), (0x07, 0x27, 0x37), (0x0F, 0x28, 0x30)),
    "cave": (0x0F, (0x04, 0x13, 0x34), (0x0C, 0x16, 0x28), (0x07, 0x17, 0x37), (0x07, 0x28, 0x30)),
    "night": (0x02, (0x0F, 0x1B, 0x3B), (0x03, 0x21, 0x31), (0x0F, 0x18, 0x38), (0x0F, 0x28, 0x30)),
    "desert": (0x23, (0x07, 0x27, 0x37), (0x33, 0x1A, 0x34), (0x07, 0x17, 0x37), (0x0F, 0x28, 0x30)),
    "snow": (0x31, (0x01, 0x21, 0x30), (0x3C, 0x12, 0x30), (0x0F, 0x17, 0x27), (0x0F, 0x28, 0x38)),
    "ruins": (0x0C, (0x0F, 0x00, 0x10), (0x01, 0x16, 0x27), (0x0F, 0x18, 0x28), (0x0F, 0x28, 0x30)),
}
# Sprites: hero, walker, slime and status line, bat; the walker's and the bat's colours suit the theme.
HERO = (0x0F, 0x16, 0x38)
ENEMIES = {
    "meadow": ((0x0F, 0x14, 0x36), (0x0F, 0x11, 0x30), (0x0F, 0x03, 0x34)),
    "cave": ((0x0F, 0x1A, 0x3A), (0x0F, 0x11, 0x31), (0x0F, 0x2C, 0x30)),
    "night": ((0x0F, 0x14, 0x36), (0x0F, 0x1A, 0x3A), (0x0F, 0x27, 0x30)),
    "desert": ((0x0F, 0x13, 0x33), (0x0F, 0x1A, 0x3A), (0x0F, 0x02, 0x32)),
    "snow": ((0x0F, 0x14, 0x36), (0x0F, 0x19, 0x39), (0x0F, 0x03, 0x34)),
    "ruins": ((0x0F, 0x1A, 0x3A), (0x0F, 0x11, 0x31), (0x0F, 0x14, 0x35)),
}
SPRITE_KEYS = {".": 0, "k": 1, "r": 2, "y": 3}


def read_sprites(fpath: Path) -> dict[str, Grid]:
    """Named grids of a text file."""
    sprites: dict[str, Grid] = {}
    name = ""
    for line in fpath.read_text(encoding="utf-8").splitlines():
        if line.startswith("="):
            name = line[1:].strip()
            sprites[name] = []
        elif line and not line.startswith("#"):
            sprites[name].append([SPRITE_KEYS[key] for key in line])
    for name, grid in sprites.items():
        width = len(grid[0])
        assert all(len(row) == width for row in grid), f"{name}: rows differ in width"
        assert width % 8 == 0 and len(grid) % 8 == 0, f"{name}: {width}x{len(grid)}"
    return sprites


def encode(tile: Grid) -> bytes:
    """An 8x8 tile as the console's two bit planes."""
    planes = [bytes(sum((row[x] >> plane & 1) << (7 - x) for x in range(8)) for row in tile) for plane in (0, 1)]
    return planes[0] + planes[1]


class PatternTable:
    """256 tiles of 8x8, each stored once."""

    def __init__(self) -> None:
        self.tiles: dict[bytes, int] = {}

    def add(self, tile: Grid) -> int:
        return self.tiles.setdefault(encode(tile), len(self.tiles))

    def to_bytes(self) -> bytes:
        assert len(self.tiles) <= 256, f"{len(self.tiles)} tiles"
        return b"".join(self.tiles).ljust(4096, b"\0")


def hero_frames(sprites: dict[str, Grid]) -> list[Grid]:
    """Grids (32, 16) in the order of the FRAME_ constants of src/game.h."""
    blank = [[0] * 16 for _ in range(8)]
    head, back, dead = sprites["head"], sprites["head_back"], sprites["head_dead"]
    return [
        head + sprites["body_stand"],
        head + sprites["body_walk1"],
        head + sprites["body_walk2"],
        head + sprites["body_jump"],
        blank + head + sprites["body_crouch"],
        back + sprites["body_climb"],
        dead + sprites["body_jump"],
        head + sprites["body_win"],
    ]


def sprite_table() -> tuple[bytes, dict[str, int]]:
    """Pattern table of 8x16 sprites, and the number of each sprite's first tile."""
    sprites = read_sprites(GRAPHICS_DPATH / "sprites.txt")
    tiles: list[Grid] = []
    first: dict[str, int] = {}

    def add(grid: Grid) -> None:
        for row in range(len(grid) // 16):
            for column_ in range(len(grid[0]) // 8):
                part = cut(grid, column_, row, 8, 16)
                tiles.extend((part[:8], part[8:]))

    for grid in hero_frames(sprites):
        add(grid)
    for name in ("walker1", "walker2", "walker_flat", "slime1", "slime2", "slime_flat", "bat1", "bat2", "bat_flat"):
        first[name] = len(tiles)
        add(sprites[name])
    for name, grid in read_sprites(GRAPHICS_DPATH / "small.txt").items():
        first[name] = len(tiles)
        add(grid)
    assert len(tiles) <= 256
    return b"".join(encode(tile) for tile in tiles).ljust(4096, b"\0"), first


def c_array(name: str, values: list[int]) -> str:
    lines = [", ".join(str(value) for value in values[i : i + 24]) for i in range(0, len(values), 24)]
    return f"const unsigned char {name}[{len(values)}] = {{\n    " + ",\n    ".join(lines) + "\n};\n"


def palettes() -> list[int]:
    values = []
    for theme in THEMES:
        sky, *colors = PALETTES[theme]
        walker, slime, bat = ENEMIES[theme]
        for triple in (*colors, HERO, walker, slime, bat):
            values += [sky, *triple]
    return values


def write_graphics(build_dpath: Path) -> dict[str, int]:
    """Write graphics.chr, tables.c and tables.h; returns how many tiles each pattern table holds."""
    background = PatternTable()
    background.add([[0] * 8 for _ in range(8)])
    corners: list[list[int]] = [[], [], [], []]
    for theme in THEMES:
        for name, _, _ in METATILES:
            grid = metatile(theme, name)
            for i in range(4):
                corners[i].append(background.add(cut(grid, i % 2, i // 2, 8, 8)))
    sprites, first = sprite_table()
    (build_dpath / "graphics.chr").write_bytes(background.to_bytes() + sprites)
    names = [f"#define M_{name.upper()} {i}" for i, (name, _, _) in enumerate(METATILES)]
    names += [f"#define SPRITE_{name.upper()} {number | 1}" for name, number in first.items()]
    names += [f"#define NUM_METATILES {len(METATILES)}", f"#define NUM_THEMES {len(THEMES)}"]
    tables = [c_array(f"tiles_{i}", corners[i]) for i in range(4)]
    tables.append(c_array("metatile_palette", [palette for _, palette, _ in METATILES]))
    tables.append(c_array("metatile_flags", [flags for _, _, flags in METATILES]))
    tables.append(c_array("theme_palettes", palettes()))
    (build_dpath / "tables.h").write_text("\n".join(names) + "\n", encoding="utf-8")
    (build_dpath / "tables.c").write_text("\n".join(tables), encoding="utf-8")
    return {"background": len(background.tiles), "sprites": sum(1 for _ in first)}
