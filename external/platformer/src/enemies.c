/* Enemies: walkers patrol, slimes hop in place, bats fly to and fro. The hero squashes them from above. */

#include "game.h"

#define SQUASHED 0x80 /* with the frames left to show */
#define GONE 0xFF
#define BAT_RANGE 40

static u8 kind[MAX_ENEMIES], state[MAX_ENEMIES], clock[MAX_ENEMIES], facing_right[MAX_ENEMIES], feet[MAX_ENEMIES];
static u8 home_y[MAX_ENEMIES];
static u16 place[MAX_ENEMIES], home_x[MAX_ENEMIES];

/* Height of a slime above its place in the course of a hop, and of a bat along its way. */
static const u8 hop[32] = {0,  5,  9,  13, 17, 20, 22, 24, 26, 27, 28, 28, 28, 28, 27, 26,
                           24, 22, 20, 17, 13, 9,  5,  0,  0,  0,  0,  0,  0,  0,  0,  0};
static const u8 wave[16] = {4, 5, 6, 7, 8, 8, 7, 6, 4, 3, 2, 1, 0, 0, 1, 2};
static const u8 first_tile[NUM_ENEMY_TYPES] = {SPRITE_WALKER1, SPRITE_SLIME1, SPRITE_BAT1};

void enemies_clear(void) { num_enemies = 0; }

/* An enemy in a column, its feet on top of a row. */
void enemy_add(u8 type, u8 column, u8 row) {
    if (num_enemies == MAX_ENEMIES) return;
    kind[num_enemies] = type;
    state[num_enemies] = 0;
    clock[num_enemies] = random();
    facing_right[num_enemies] = 0;
    place[num_enemies] = home_x[num_enemies] = ((u16)column << 4) + 8;
    feet[num_enemies] = home_y[num_enemies] = row << 4;
    ++num_enemies;
}

static u8 i, y;
static u16 x;

static void patrol(void) {
    static u16 ahead;
    if (!(clock[i] & 1)) return;
    ahead = facing_right[i] ? x + 8 : x - 9;
    if ((FLAGS_AT(ahead, y - 8) & (SOLID | HAZARD)) || !(FLAGS_AT(ahead, y) & SOLID)) facing_right[i] ^= 1;
    else if (facing_right[i]) ++place[i];
    else --place[i];
}

static void fly(void) {
    if (facing_right[i]) {
        if (++place[i] > home_x[i] + BAT_RANGE) facing_right[i] = 0;
    } else if (--place[i] < home_x[i] - BAT_RANGE) {
        facing_right[i] = 1;
    }
    feet[i] = home_y[i] - wave[(clock[i] >> 2) & 15];
}

static void meet_hero(void) {
    static u8 top;
    if (x + 10 < hero_x || x > hero_x + 10) return;
    top = y - 13;
    if (hero_y <= top || hero_y > y + hero_height) return;
    if (speed_y > 0 && hero_y < y - 2) {
        state[i] = SQUASHED | 24;
        feet[i] = y;
        ++kills;
        score += 20;
        sound_stomp();
        hero_bounce();
    } else {
        hero_die(DEATH_ENEMY);
    }
}

void enemies_update(void) {
    static u16 left;
    left = camera_x > 48 ? camera_x - 48 : 0;
    for (i = 0; i < num_enemies; ++i) {
        if (state[i] == GONE) continue;
        x = place[i];
        if (x < left || x - left > 352) continue;
        y = feet[i];
        if (state[i] & SQUASHED) {
            if (--state[i] == SQUASHED) state[i] = GONE;
            continue;
        }
        ++clock[i];
        switch (kind[i]) {
            case WALKER: patrol(); break;
            case SLIME: feet[i] = home_y[i] - hop[(clock[i] >> 1) & 31]; break;
            default: fly();
        }
        if (hero_state < DYING) meet_hero();
    }
}

void enemies_draw(void) {
    static u16 on_screen;
    static u8 tile, flip;
    for (i = 0; i < num_enemies; ++i) {
        if (state[i] == GONE) continue;
        on_screen = place[i] - 8 - camera_x;
        if (on_screen > 240) continue;
        tile = first_tile[kind[i]];
        flip = facing_right[i] ? 0 : 0x40;
        if (state[i] & SQUASHED) tile += 8;
        else if (kind[i] == SLIME ? feet[i] != home_y[i] : (clock[i] & 8)) tile += 4;
        draw_pair(on_screen, feet[i] - 17, tile, (kind[i] + 1) | flip);
    }
}
