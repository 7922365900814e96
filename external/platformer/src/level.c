/* The level generator: a row of stretches, each of which the hero can pass with one button at a time.

   Reach of the hero, which the stretches stay below: full jump 54 pixels high and over 80 wide, short jump
   30 high and 50 wide. So steps rise by up to 3 metatiles, gaps are up to 4 wide, higher walls have ladders. */

#include "game.h"

#define HIGHEST 6 /* rows of the ground: 6 (high) to 12 (low) */
#define LOWEST 12
#define PIT 15
#define FIRST_ENEMY 24    /* no enemies before this column */
#define LEVEL_COLUMNS 152 /* after these no stretch begins */

static u8* column_pointer;
static u8 column; /* the next one to be built */
static u8 ground; /* row of the ground */
static u8 tier;   /* difficulty: 0 at the start to 3 */
u8 start_row;

u8 random_below(u8 limit) { return (u8)(((u16)random() * limit) >> 8); }

/* One column with its ground at a row, or without (PIT). */
static void add_column(u8 top) {
    static u8 row;
    for (row = 0; row < 16; ++row) column_pointer[row] = row > top ? M_FILL : M_SKY;
    if (top < PIT) {
        column_pointer[top] = M_TOP;
    } else {
        column_pointer[LIQUID_ROW] = M_LIQUID_TOP;
        column_pointer[LIQUID_ROW + 1] = M_LIQUID;
        column_pointer[LIQUID_ROW + 2] = M_LIQUID;
    }
    column_pointer += 16;
    ++column;
}

static void flat(u8 count) {
    static u8 i;
    for (i = count; i; --i) add_column(ground);
}

static void pit(u8 count) {
    static u8 i;
    for (i = count; i; --i) add_column(PIT);
}

/* Change a cell of a column that is built; `back` counts columns from the last one. */
static void put(u8 back, u8 row, u8 metatile) { column_pointer[(i16)row - ((u16)(back + 1) << 4)] = metatile; }

static void coin_row(u8 back, u8 row, u8 count) {
    static u8 i;
    for (i = 0; i < count; ++i) {
        put(back - i, row, M_COIN);
    }
}

/* Coins above a gap or step, along a jump. */
static void coin_arc(u8 back, u8 row) {
    put(back, row, M_COIN);
    put(back - 1, row - 1, M_COIN);
    put(back - 2, row, M_COIN);
}

static void ladder(u8 back, u8 top, u8 bottom) {
    static u8 row;
    put(back, top, M_LADDER_TOP);
    for (row = top + 1; row < bottom; ++row) put(back, row, M_LADDER);
}

static void enemy(u8 back, u8 row) { enemy_add(random_below(3) ? WALKER : SLIME, column - 1 - back, row); }

/* Move the ground by -up to +down rows, within its limits. */
static void shift_ground(u8 up, u8 down) {
    static u8 row;
    row = ground + random_below(up + down + 1) - up;
    ground = row < HIGHEST ? HIGHEST : row > LOWEST ? LOWEST : row;
}

static u8 stretch_walk(void) {
    static u8 count;
    count = 6 + random_below(4);
    flat(count);
    if (column > FIRST_ENEMY) enemy(1 + random_below(3), ground);
    if (random_below(2)) coin_row(count - 2, ground - 1 - random_below(3), 3);
    return 1;
}

static u8 stretch_gap(void) {
    static u8 width;
    width = 2 + random_below(tier > 1 ? 3 : 2);
    pit(width);
    if (random_below(3)) coin_arc(width, ground - 3);
    if (width == 4) shift_ground(0, 2);
    else shift_ground(1, 2);
    flat(3 + random_below(2));
    return 1;
}

static u8 stretch_step(void) {
    if (ground < HIGHEST + 3) return 0;
    ground -= 1 + random_below(column < 36 ? 2 : 3);
    flat(4 + random_below(3));
    if (random_below(2)) coin_row(2, ground - 1, 2);
    return 1;
}

static u8 stretch_drop(void) {
    if (ground > LOWEST - 2) return 0;
    ground += 2 + random_below(LOWEST - 1 - ground);
    flat(5 + random_below(2));
    if (tier && random_below(2)) enemy(1, ground);
    return 1;
}

/* A wall that only its ladder leads over. */
static u8 stretch_ladder(void) {
    static u8 height;
    if (ground < HIGHEST + 4) return 0;
    height = 4 + random_below(ground - HIGHEST - 3);
    if (height > 6) height = 6;
    flat(4);
    ladder(0, ground - height, ground);
    ground -= height;
    flat(6 + random_below(3));
    if (random_below(2)) coin_row(4, ground - 1, 3);
    else if (tier) enemy(1, ground);
    return 1;
}

/* Platforms above a wide pit. */
static u8 stretch_islands(void) {
    static u8 island, row, width, i;
    row = ground < 7 ? 7 : ground > 11 ? 11 : ground;
    for (island = 2 + random_below(2); island; --island) {
        pit(2 + (tier > 1 && random_below(2)));
        width = 2 + random_below(2);
        pit(width);
        for (i = 0; i < width; ++i) put(i, row, M_PLATFORM);
        if (random_below(2)) coin_row(width - 1, row - 1, 2);
        if (random_below(2)) row = row > 7 ? row - 1 : row + 1;
    }
    pit(2);
    ground = row;
    flat(4);
    return 1;
}

static u8 stretch_pillars(void) {
    static u8 pillar, base;
    base = ground;
    for (pillar = 2 + random_below(2); pillar; --pillar) {
        pit(2);
        ground = base;
        shift_ground(1, 1);
        flat(2);
        if (random_below(2)) put(1, ground - 1, M_COIN);
    }
    pit(2);
    ground = base;
    flat(4);
    return 1;
}

static u8 stretch_spikes(void) {
    flat(7 + random_below(2));
    put(3, ground - 1, M_SPIKE);
    if (tier > 1 || random_below(2)) put(2, ground - 1, M_SPIKE);
    if (random_below(2)) coin_arc(4, ground - 4);
    return 1;
}

/* A passage below a ceiling. */
static u8 stretch_tunnel(void) {
    static u8 count, i, row;
    if (ground < 8) return 0;
    count = 7 + random_below(4);
    flat(count + 2);
    for (i = 1; i <= count; ++i) {
        for (row = ground - 7; row < ground - 4; ++row) put(i, row, M_BLOCK_TOP);
    }
    coin_row(count, ground - 1 - random_below(2), 3);
    enemy(1, ground);
    return 1;
}

/* A bridge over a pit that is too wide to jump; a ladder leads up to it. */
static u8 stretch_bridge(void) {
    static u8 width, i;
    if (ground < HIGHEST + 4) return 0;
    width = 7 + random_below(3);
    flat(4);
    ladder(0, ground - 4, ground);
    pit(width);
    for (i = 0; i < width; ++i) put(i, ground - 4, M_PLATFORM);
    coin_row(4, ground - 5, 3);
    flat(5);
    if (tier > 1) enemy_add(BAT, column - 5 - (width >> 1), ground - 4);
    return 1;
}

/* A wall to the sky; the way leads down a ladder and through a cellar. */
static u8 stretch_shaft(void) {
    static u8 i, row;
    if (ground > LOWEST - 4) return 0;
    flat(4);
    add_column(LOWEST);
    ladder(0, ground, LOWEST);
    for (i = 5; i; --i) {
        add_column(LOWEST);
        for (row = 0; row < LOWEST - 3; ++row) put(0, row, M_BLOCK_TOP);
    }
    coin_row(3, LOWEST - 1, 3);
    ground = LOWEST;
    flat(5);
    return 1;
}

/* Platforms above the ground: coins for those who climb. */
static u8 stretch_upper(void) {
    static u8 i;
    if (ground < 9) return 0;
    flat(11);
    for (i = 6; i < 9; ++i) put(i, ground - 3, M_PLATFORM);
    for (i = 1; i < 5; ++i) put(i, ground - 5, M_PLATFORM);
    coin_row(4, ground - 6, 4);
    coin_row(8, ground - 4, 2);
    if (column > FIRST_ENEMY) enemy(3, ground);
    return 1;
}

static u8 stretch_bats(void) {
    if (!tier) return 0;
    flat(10);
    enemy_add(BAT, column - 5, ground - 1 - random_below(2));
    if (random_below(2)) coin_row(6, ground - 4, 3);
    return 1;
}

/* The kinds of stretches, as often as they are to come. */
static u8 (*const stretches[16])(void) = {
    stretch_walk,    stretch_gap,    stretch_step,   stretch_drop,  stretch_ladder, stretch_islands,
    stretch_pillars, stretch_spikes, stretch_tunnel, stretch_upper, stretch_bridge, stretch_shaft,
    stretch_bats,    stretch_gap,    stretch_ladder, stretch_bridge,
};
/* The first column at which each kind may begin: nothing deadly at first, no ladders before the second screen. */
static const u8 first_column[16] = {0, 26, 20, 0, 36, 40, 40, 26, 30, 0, 36, 36, 44, 26, 36, 36};

static void build_gate(void) {
    static u8 i;
    flat(8);
    for (i = 0; i < 3; ++i) {
        put(4, ground - 3 + i, M_GATE_0 + 2 * i);
        put(3, ground - 3 + i, M_GATE_1 + 2 * i);
    }
}

/* Build the level of `seed` in work RAM. */
void build_level(void) {
    static u8 kind, last;
    random_state = seed * 0x9E37u + 0x79B9u;
    if (!random_state) random_state = 1;
    random();
    random();
    theme = seed % NUM_THEMES;
    enemies_clear();
    column_pointer = MAP;
    column = 0;
    tier = 0;
    last = 255;
    ground = 8 + random_below(3);
    start_row = ground;
    flat(9);
    while (column < LEVEL_COLUMNS) {
        kind = random() & 15;
        if (column < first_column[kind] || (last != 255 && stretches[kind] == stretches[last])) continue;
        tier = column / 44;
        if (stretches[kind]()) last = kind;
    }
    build_gate();
    level_columns = column;
    join_ground();
    add_scenery();
}
