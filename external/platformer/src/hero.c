/* The hero: runs, jumps, climbs, crouches, and dies.

   In the air the speed is kept when no direction is pressed, so that a player with one button at a time can run, jump
   and fly on. The jump is the higher the longer the button is held. */

#include "game.h"

#define TOP_SPEED 36     /* 2.25 pixels per frame */
#define GROUND_PUSH 3
#define TURN_PUSH 6
#define AIR_PUSH 2
#define FRICTION 3
#define JUMP_SPEED 72    /* 4.5 pixels per frame */
#define BOUNCE_SPEED 60
#define RISE_GRAVITY 3   /* while the button is held */
#define CUT_GRAVITY 8    /* once it is let go */
#define FALL_GRAVITY 6
#define FALL_SPEED 68
#define CLIMB_SPEED 24
#define HALF_WIDTH 5
#define STAND_HEIGHT 26
#define CROUCH_HEIGHT 15
#define COYOTE_FRAMES 5  /* one can still jump so long after an edge */
#define BUFFER_FRAMES 6  /* a jump pressed so long before landing counts */

u8 hero_frame, hero_left, hero_height, hero_advances;

static u16 x; /* of the middle, in 1/16 pixel */
static i16 y; /* of the feet */
static i16 vx, vy;
static u16 px, limit;
static u8 py, head; /* of the feet and the head, in pixels */
static u8 pressed, last_pad, coyote, buffer, timer;

void hero_start(void) {
    x = 40 << 4;
    y = (i16)start_row << 8;
    vx = vy = 0;
    px = hero_x = max_x = 40;
    py = hero_y = start_row << 4;
    hero_state = ON_GROUND;
    hero_frame = FRAME_STAND;
    hero_height = STAND_HEIGHT;
    hero_left = 0;
    coyote = buffer = timer = hero_advances = 0;
    last_pad = 0xFF;
    limit = ((u16)level_columns << 8) - (HALF_WIDTH << 4) - 16;
    progress = px >> 4;
    speed_x = speed_y = 0;
}

void hero_die(u8 cause) {
    if (hero_state >= DYING) return;
    hero_state = DYING;
    hero_frame = FRAME_DEAD;
    death = cause;
    if (lives) --lives;
    vy = -JUMP_SPEED;
    timer = 0;
    sound_die();
}

static void hero_win(void) {
    hero_state = WINNING;
    hero_frame = FRAME_WIN;
    goal = 1;
    score += 100;
    timer = 0;
    sound_win();
}

void hero_bounce(void) {
    vy = (pad & PAD_A) ? -JUMP_SPEED : -BOUNCE_SPEED;
    hero_state = IN_AIR;
    coyote = 0;
}

static void measure(void) {
    px = x >> 4;
    py = y < 0 ? 0 : y > (239 << 4) ? 239 : (u8)(y >> 4);
    head = py > hero_height ? py - hero_height : 0;
}

/* Whether a wall stands at pixel column `side`, next to the hero. */
static u8 wall_at(u16 side) {
    static u8 low;
    low = py ? py - 1 : 0;
    if (FLAGS_AT(side, low) & SOLID) return 1;
    if (FLAGS_AT(side, head) & SOLID) return 1;
    low = head + ((py - head) >> 1);
    return FLAGS_AT(side, low) & SOLID;
}

static void move_sideways(void) {
    x += vx;
    if ((i16)vx < 0 && x < (HALF_WIDTH + 1) << 4) {
        x = (HALF_WIDTH + 1) << 4;
        vx = 0;
    } else if (x > limit) {
        x = limit;
        vx = 0;
    }
    px = x >> 4;
    if (vx > 0) {
        if (wall_at(px + HALF_WIDTH)) {
            px = ((px + HALF_WIDTH) & 0xFFF0) - HALF_WIDTH - 1;
            x = px << 4;
            vx = 0;
        }
    } else if (vx < 0 && wall_at(px - HALF_WIDTH)) {
        px = ((px - HALF_WIDTH) & 0xFFF0) + 16 + HALF_WIDTH;
        x = px << 4;
        vx = 0;
    }
}

/* Whether ground of the given kinds is at pixel row `row` beneath either foot. */
static u8 floor_at(u8 row, u8 kinds) {
    if (FLAGS_AT(px - HALF_WIDTH + 1, row) & kinds) return 1;
    return FLAGS_AT(px + HALF_WIDTH - 1, row) & kinds;
}

static void fall(void) {
    static u8 before, kinds;
    if (vy < 0) vy += (pad & PAD_A) ? RISE_GRAVITY : CUT_GRAVITY;
    else vy += FALL_GRAVITY;
    if (vy > FALL_SPEED) vy = FALL_SPEED;
    before = py;
    y += vy;
    measure();
    if (vy < 0) {
        if (y > (i16)hero_height << 4 && floor_at(head, SOLID)) {
            head = (head & 0xF0) + 16;
            py = head + hero_height;
            y = (i16)py << 4;
            vy = 0;
        }
        return;
    }
    kinds = (before & 0xF0) != (py & 0xF0) || !(before & 0x0F) ? SOLID | ONEWAY : SOLID;
    if (y >= 0 && floor_at(py, kinds)) {
        py &= 0xF0;
        y = (i16)py << 4;
        vy = 0;
        hero_state = ON_GROUND;
    }
}

static void jump(void) {
    vy = -JUMP_SPEED;
    hero_state = IN_AIR;
    coyote = buffer = 0;
    sound_jump();
}

static void push(u8 amount) {
    if (pad & PAD_RIGHT) {
        vx += vx < 0 ? TURN_PUSH : amount;
        if (vx > TOP_SPEED) vx = TOP_SPEED;
        hero_left = 0;
    } else if (pad & PAD_LEFT) {
        vx -= vx > 0 ? TURN_PUSH : amount;
        if (vx < -TOP_SPEED) vx = -TOP_SPEED;
        hero_left = 1;
    }
}

static void slow_down(void) {
    if (vx > FRICTION) vx -= FRICTION;
    else if (vx < -FRICTION) vx += FRICTION;
    else vx = 0;
}

/* Take hold of the ladder at pixel row `row`, if there is one. */
static u8 grab(u8 row) {
    if (!(FLAGS_AT(px, row) & LADDER)) return 0;
    px = (px & 0xFFF0) + 8;
    x = px << 4;
    vx = vy = 0;
    hero_state = CLIMBING;
    hero_height = STAND_HEIGHT;
    return 1;
}

static void climb(void) {
    if (pressed & PAD_A) {
        jump();
        return;
    }
    if (pad & (PAD_LEFT | PAD_RIGHT)) {
        push(GROUND_PUSH);
        move_sideways();
        if (vx) hero_state = IN_AIR;
        return;
    }
    if (pad & PAD_UP) {
        y -= CLIMB_SPEED;
        measure();
        if (!(FLAGS_AT(px, py - 1) & LADDER)) {
            py = (py + 15) & 0xF0;
            y = (i16)py << 4;
            hero_state = ON_GROUND;
        }
    } else if (pad & PAD_DOWN) {
        y += CLIMB_SPEED;
        measure();
        if (FLAGS_AT(px, py) & SOLID) {
            py &= 0xF0;
            y = (i16)py << 4;
            hero_state = ON_GROUND;
        } else if (!(FLAGS_AT(px, py - 1) & LADDER)) {
            hero_state = IN_AIR;
        }
    }
}

static void walk(void) {
    static u8 crouches;
    if ((pad & PAD_UP) && grab(py - 8)) return;
    if ((pad & PAD_DOWN) && hero_state == ON_GROUND && !(FLAGS_AT(px, py) & SOLID) && grab(py)) {
        y += CLIMB_SPEED;
        measure();
        return;
    }
    if (hero_state == IN_AIR) {
        push(AIR_PUSH);
        hero_height = STAND_HEIGHT;
    } else {
        crouches = pad & PAD_DOWN;
        hero_state = crouches ? CROUCHING : ON_GROUND;
        hero_height = crouches ? CROUCH_HEIGHT : STAND_HEIGHT;
        coyote = COYOTE_FRAMES;
        if (!crouches && (pad & (PAD_LEFT | PAD_RIGHT))) push(GROUND_PUSH);
        else slow_down();
    }
    measure();
    if (coyote && buffer) {
        hero_height = STAND_HEIGHT;
        jump();
    }
    if (vx) move_sideways();
    if (hero_state == IN_AIR) {
        fall();
        if (coyote) --coyote;
    } else if (!floor_at(py, SOLID | ONEWAY)) {
        hero_state = IN_AIR;
    }
}

static void touch_cell(u8 row) {
    static u8 flags;
    flags = FLAGS_AT(px, row);
    if (flags & COIN) {
        screen_erase(px >> 4, row >> 4);
        ++coins;
        score += 10;
        sound_coin();
    } else if (flags & GOAL) {
        hero_win();
    } else if ((flags & HAZARD) && row > py - 8) {
        hero_die((py >> 4) >= LIQUID_ROW ? DEATH_FALL : DEATH_SPIKE);
    }
}

static void choose_frame(void) {
    if (hero_state == CLIMBING) {
        hero_frame = FRAME_CLIMB;
        hero_left = (py >> 3) & 1;
    } else if (hero_state == CROUCHING) {
        hero_frame = FRAME_CROUCH;
    } else if (hero_state == IN_AIR) {
        hero_frame = FRAME_JUMP;
    } else if (vx) {
        hero_frame = (px & 0x08) ? FRAME_WALK1 : FRAME_WALK2;
    } else {
        hero_frame = FRAME_STAND;
    }
}

/* The last seconds of a life or a level; then the level starts anew, or the next one does. */
static void finish(void) {
    ++timer;
    if (hero_state == DYING) {
        vy += FALL_GRAVITY;
        if (timer > 12 && y < 250 << 4) y += vy;
        if (timer < 90) return;
        if (!lives) {
            lives = 3;
            coins = 0;
            score = 0;
            level = 1;
        }
    } else {
        if (timer < 90) return;
        ++seed;
        ++level;
        hero_advances = 1;
    }
    ready = 0;
}

void hero_update(void) {
    pressed = pad & ~last_pad;
    last_pad = pad;
    if (hero_state >= DYING) {
        finish();
    } else {
        if (pressed & PAD_A) buffer = BUFFER_FRAMES;
        if (hero_state == CLIMBING) climb();
        else walk();
        if (buffer) --buffer;
        measure();
        touch_cell(py - 6);
        if (hero_state < DYING) touch_cell(head + 6);
        if (hero_state < DYING && py >= (LIQUID_ROW << 4) + 6) hero_die(DEATH_FALL);
        if (hero_state < DYING) choose_frame();
    }
    hero_x = px;
    hero_y = y < 0 ? 0 : y > 255 << 4 ? 255 : (u8)(y >> 4);
    if (hero_x > max_x) {
        max_x = hero_x;
        progress = max_x >> 4;
    }
    speed_x = vx;
    speed_y = vy;
}
