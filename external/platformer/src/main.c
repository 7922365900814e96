/* Cinderfoot: a small ember runs through meadows, caves and ruins to the gate. */

#include "game.h"

/* Build the level of `seed` and show it. A seed that was written from outside starts a new game. */
static void start_level(void) {
    static u8 started;
    ready = 0;
    ppu_off();
    started = frame_count;
    if (seed != built_seed && !hero_advances) {
        lives = 3;
        level = 1;
        coins = 0;
        score = 0;
        kills = 0;
    }
    death = goal = 0;
    built_seed = seed;
    build_level();
    hero_start();
    screen_start();
    level_frames = 0;
    ++num_builds;
    build_frames = frame_count - started;
    screen_draw();
    ppu_on();
    wait_frame();
    late_frames = 0;
    ready = 1;
}

void main(void) {
    static u8 expected;
    lives = 3;
    built_seed = 0xFFFF;
    seed = 0;
    for (;;) {
        start_level();
        expected = frame_count;
        while (ready && seed == built_seed) {
            late_frames += frame_count - expected;
            read_pad();
            hero_update();
            enemies_update();
            screen_scroll();
            screen_draw();
            ++level_frames;
            expected = frame_count + 1;
            wait_frame();
        }
    }
}
