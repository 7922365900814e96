/* What makes a level look: edges of the ground, hills or pillars, plants, clouds. Nothing here can be touched. */

#include "game.h"

#define CAVE 1
#define NIGHT 2
#define RUINS 5
#define HILL_ROW 12 /* hills stand on this row */

static u8 column;
static u8* cells; /* of `column` */

/* Dark edges where the ground ends at the left or right. */
void join_ground(void) {
    static u8 row, cell, last;
    last = level_columns - 1;
    cells = MAP;
    for (column = 0; column < level_columns; ++column, cells += 16) {
        for (row = HILL_ROW - 8; row < 15; ++row) {
            cell = cells[row];
            if (cell != M_FILL && cell != M_TOP) continue;
            if (column && !(metatile_flags[*(cells + row - 16)] & SOLID)) cells[row] = cell + 1;
            else if (column < last && !(metatile_flags[cells[row + 16]] & SOLID)) cells[row] = cell + 2;
        }
    }
}

/* Whether the cells of `count` columns between two rows show nothing but sky and ground. */
static u8 is_free(u8* from, u8 count, u8 top, u8 bottom) {
    static u8 row, cell;
    for (; count; --count, from += 16) {
        for (row = top; row <= bottom; ++row) {
            cell = from[row];
            if (cell > M_BLOCK && cell != M_LIQUID_TOP) return 0;
        }
    }
    return 1;
}

static u8* hill_cell;

static void fill_cell(u8 metatile) {
    if (*hill_cell == M_SKY) *hill_cell = metatile;
}

/* A hill of `height` rows whose left slope begins in the current column. */
static void add_hill(u8 height) {
    static u8 i, row, width;
    if (column + 2 * height >= level_columns) return;
    if (!is_free(cells, 2 * height, HILL_ROW + 1 - height, HILL_ROW)) return;
    width = 2 * height;
    for (i = 0; i < width; ++i) {
        row = i < height ? HILL_ROW - i : HILL_ROW + 1 - width + i;
        hill_cell = cells + ((u16)i << 4) + row;
        if (i < height) fill_cell(i == height - 1 ? M_PEAK_LEFT : M_HILL_LEFT);
        else fill_cell(i == height ? M_PEAK_RIGHT : M_HILL_RIGHT);
        for (; row < HILL_ROW; ++row) {
            ++hill_cell;
            fill_cell(M_HILL_FILL);
        }
    }
}

static void add_pillar(u8 top) {
    static u8 row;
    if (!is_free(cells, 1, top, HILL_ROW) || cells[top] != M_SKY) return;
    for (row = top; row <= HILL_ROW; ++row) {
        if (cells[row] == M_SKY) cells[row] = row == top ? M_COLUMN_TOP : M_COLUMN;
    }
}

/* A plant or the like on the ground. */
static void add_plant(u8 is_tall) {
    static u8 row;
    for (row = 3; row < 13 && cells[row] == M_SKY; ++row) {
    }
    if (cells[row] < M_TOP || cells[row] > M_TOP_RIGHT || cells[row - 1] != M_SKY) return;
    if (is_tall && cells[row - 2] == M_SKY) {
        cells[row - 1] = M_TALL_BOTTOM;
        cells[row - 2] = M_TALL_TOP;
    } else {
        cells[row - 1] = M_BUSH;
    }
}

static void add_sky(void) {
    static u8 row;
    row = theme == CAVE ? 1 : 1 + random_below(4);
    if (theme == NIGHT || theme == RUINS || random_below(2)) {
        if (cells[row] == M_SKY) cells[row] = M_STAR;
    } else if (column + 1 < level_columns && cells[row] == M_SKY && cells[row + 16] == M_SKY) {
        cells[row] = M_CLOUD_LEFT;
        cells[row + 16] = M_CLOUD_RIGHT;
    }
}

void add_scenery(void) {
    static u8 next_hill, next_plant, next_sky;
    next_hill = 1;
    next_plant = 2;
    next_sky = 3;
    cells = MAP;
    for (column = 0; column < level_columns; ++column, cells += 16) {
        if (theme == CAVE) cells[0] = M_FILL;
        if (column == next_hill) {
            if (theme == CAVE || theme == RUINS) {
                add_pillar(3 + random_below(4));
                next_hill += 3 + random_below(5);
            } else {
                add_hill(2 + random_below(5));
                next_hill += 3 + random_below(6);
            }
        }
        if (column == next_plant) {
            add_plant(random_below(2));
            next_plant += 3 + random_below(6);
        }
        if (column == next_sky) {
            add_sky();
            next_sky += 2 + random_below(theme == NIGHT ? 3 : 6);
        }
    }
}
