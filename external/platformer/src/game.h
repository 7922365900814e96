/* Cinderfoot: what its parts share. Lengths are pixels; speeds and exact positions are in 1/16 pixel. */

#ifndef GAME_H
#define GAME_H

#include "tables.h"

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned int u16;
typedef int i16;

/* Properties of metatiles. */
#define SOLID 1
#define ONEWAY 2
#define LADDER 4
#define COIN 8
#define HAZARD 16
#define GOAL 32
#define HILL 64

/* Buttons. */
#define PAD_A 0x80
#define PAD_B 0x40
#define PAD_SELECT 0x20
#define PAD_START 0x10
#define PAD_UP 0x08
#define PAD_DOWN 0x04
#define PAD_LEFT 0x02
#define PAD_RIGHT 0x01

/* The level: columns of 16 metatiles, of which 15 are shown. */
#define MAP ((u8*)0x6000)
#define LIQUID_ROW 13
/* Properties at a pixel. Not an expression in C: cc65 2.18 with -Oirs mistakes one byte for another in it. */
#define FLAGS_AT(x, y) (probe_x = (x), flags_at(y))

enum { ON_GROUND, IN_AIR, CLIMBING, CROUCHING, DYING, WINNING };
enum { ALIVE, DEATH_FALL, DEATH_SPIKE, DEATH_ENEMY };
enum { WALKER, SLIME, BAT, NUM_ENEMY_TYPES };
enum { FRAME_STAND, FRAME_WALK1, FRAME_WALK2, FRAME_JUMP, FRAME_CROUCH, FRAME_CLIMB, FRAME_DEAD, FRAME_WIN };

/* crt0.s */
extern u16 probe_x, random_state, column_address, attribute_address, erase_address;
extern u8 pad, scroll_x, scroll_page, column_pending, erase_pending, frame_count, frame_ready;
#pragma zpsym("probe_x")
#pragma zpsym("random_state")
#pragma zpsym("column_address")
#pragma zpsym("attribute_address")
#pragma zpsym("erase_address")
#pragma zpsym("pad")
#pragma zpsym("scroll_x")
#pragma zpsym("scroll_page")
#pragma zpsym("column_pending")
#pragma zpsym("erase_pending")
#pragma zpsym("frame_count")
#pragma zpsym("frame_ready")
extern u8 column_tiles[60], column_attributes[8], palette_buffer[32], oam[256];
void ppu_off(void);
void ppu_on(void);
void wait_frame(void);
void flush_column(void);
void load_palette(void);
u8 read_pad(void);
u8 random(void);
u8 __fastcall__ flags_at(u8 row);

/* shared.s */
extern u16 seed, built_seed, hero_x, score, max_x, level_frames, camera_x;
extern u8 hero_y, level, coins, lives, theme, death, goal, ready, progress, hero_state, late_frames, level_columns;
extern u8 num_enemies, kills, num_builds, build_frames;
extern i8 speed_x, speed_y;

/* tables.c */
extern const u8 tiles_0[], tiles_1[], tiles_2[], tiles_3[];
extern const u8 metatile_palette[], metatile_flags[], theme_palettes[];

/* level.c and scenery.c */
void build_level(void);
u8 random_below(u8 limit);
void join_ground(void);
void add_scenery(void);
extern u8 start_row;

/* hero.c */
extern u8 hero_frame, hero_left, hero_height, hero_advances;
void hero_start(void);
void hero_update(void);
void hero_bounce(void);
void hero_die(u8 cause);

/* enemies.c */
#define MAX_ENEMIES 28
void enemies_clear(void);
void enemy_add(u8 type, u8 column, u8 row);
void enemies_update(void);
void enemies_draw(void);

/* screen.c */
void screen_start(void);
void screen_scroll(void);
void screen_erase(u8 column, u8 row);
void screen_draw(void);
void draw_pair(u8 x, u8 y, u8 tile, u8 attributes);
extern u8 oam_next;

/* sound.c */
void sound_jump(void);
void sound_coin(void);
void sound_stomp(void);
void sound_die(void);
void sound_win(void);

#endif
