/* The picture: scrolling through the level column by column, sprites, the status line. */

#include "game.h"

#define CAMERA_LEAD 112
#define AHEAD 17 /* columns right of the camera's that are drawn */

static u8 theme_tiles_0[NUM_METATILES], theme_tiles_1[NUM_METATILES];
static u8 theme_tiles_2[NUM_METATILES], theme_tiles_3[NUM_METATILES];
static u8 camera_column;
u8 oam_next;

static void load_theme(void) {
    static u8 i;
    static u16 offset;
    offset = (u16)theme * NUM_METATILES;
    for (i = 0; i < NUM_METATILES; ++i) {
        theme_tiles_0[i] = tiles_0[offset];
        theme_tiles_1[i] = tiles_1[offset];
        theme_tiles_2[i] = tiles_2[offset];
        theme_tiles_3[i] = tiles_3[offset];
        ++offset;
    }
    offset = (u16)theme << 5;
    for (i = 0; i < 32; ++i) palette_buffer[i] = theme_palettes[offset + i];
}

/* Prepare a column of metatiles, and the colours of the pair of columns that it belongs to. */
static void stage_column(u8 column) {
    static const u8* cells;
    static u8 row, cell, at, nametable;
    static u8 attribute;
    cells = MAP + ((u16)column << 4);
    at = 0;
    for (row = 0; row < 15; ++row) {
        cell = cells[row];
        column_tiles[at] = theme_tiles_0[cell];
        column_tiles[at + 30] = theme_tiles_1[cell];
        ++at;
        column_tiles[at] = theme_tiles_2[cell];
        column_tiles[at + 30] = theme_tiles_3[cell];
        ++at;
    }
    cells = MAP + ((u16)(column & 0xFE) << 4);
    for (row = 0; row < 8; ++row) {
        attribute = metatile_palette[cells[0]] | (metatile_palette[cells[16]] << 2);
        attribute |= (metatile_palette[cells[1]] << 4) | (metatile_palette[cells[17]] << 6);
        column_attributes[row] = attribute;
        cells += 2;
    }
    nametable = (column & 16) ? 0x24 : 0x20;
    column_address = ((u16)nametable << 8) + ((column & 15) << 1);
    attribute_address = ((u16)(nametable + 3) << 8) + 0xC0 + ((column & 15) >> 1);
}

static void place_camera(void) {
    static u16 last;
    last = ((u16)level_columns << 4) - 256;
    camera_x = hero_x < CAMERA_LEAD ? 0 : hero_x - CAMERA_LEAD;
    if (camera_x > last) camera_x = last;
    scroll_x = camera_x;
    scroll_page = camera_x >> 8;
}

/* Draw the whole picture at the hero's place; the picture is off. */
void screen_start(void) {
    static u8 column;
    load_theme();
    load_palette();
    place_camera();
    camera_column = camera_x >> 4;
    for (column = camera_column; column <= camera_column + AHEAD; ++column) {
        stage_column(column);
        flush_column();
    }
    erase_pending = 0;
}

/* Follow the hero; a column that comes into view is drawn in the next vertical blank. */
void screen_scroll(void) {
    static u8 column;
    place_camera();
    column = camera_x >> 4;
    if (column > camera_column) {
        camera_column = column;
        stage_column(column + AHEAD);
        column_pending = 1;
    } else if (column < camera_column) {
        camera_column = column;
        if (!column) return;
        stage_column(column - 1);
        column_pending = 1;
    }
}

/* Take a coin off the level and off the picture. */
void screen_erase(u8 column, u8 row) {
    MAP[((u16)column << 4) + row] = M_SKY;
    erase_address = ((column & 16) ? 0x2400 : 0x2000) + ((u16)row << 6) + ((column & 15) << 1);
    erase_pending = 1;
}

static void draw_half(u8 x, u8 y, u8 tile, u8 attributes) {
    oam[oam_next] = y;
    oam[(u8)(oam_next + 1)] = tile;
    oam[(u8)(oam_next + 2)] = attributes;
    oam[(u8)(oam_next + 3)] = x;
    oam_next += 4;
}

/* Two sprites of 8x16 side by side, mirrored with bit 6 of the attributes. */
void draw_pair(u8 x, u8 y, u8 tile, u8 attributes) {
    if (attributes & 0x40) {
        draw_half(x, y, tile + 2, attributes);
        draw_half(x + 8, y, tile, attributes);
    } else {
        draw_half(x, y, tile, attributes);
        draw_half(x + 8, y, tile + 2, attributes);
    }
}

static void draw_hero(void) {
    static u8 x, tile, attributes;
    x = hero_x - camera_x - 8;
    tile = (hero_frame << 3) | 1;
    attributes = hero_left ? 0x40 : 0;
    if (hero_y > 16) draw_pair(x, hero_y < 33 ? 0 : hero_y - 33, tile, attributes);
    if (hero_y < 240) draw_pair(x, hero_y - 17, tile + 4, attributes);
}

static void draw_status(void) {
    static u8 tens, ones;
    for (ones = 0; ones < lives && ones < 5; ++ones) draw_half(16 + 10 * ones, 15, SPRITE_ICON_HEART, 0);
    tens = 0;
    for (ones = coins; ones >= 10; ones -= 10) ++tens;
    draw_half(208, 15, SPRITE_ICON_COIN, 0);
    draw_half(220, 15, SPRITE_DIGIT0 + 2 * (tens % 10), 0);
    draw_half(229, 15, SPRITE_DIGIT0 + 2 * ones, 0);
}

void screen_draw(void) {
    oam_next = 0;
    draw_hero();
    enemies_draw();
    draw_status();
    while (oam_next) {
        oam[oam_next] = 0xF0;
        oam_next += 4;
    }
}
