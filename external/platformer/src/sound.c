/* Sound effects: one note each, of which the console's sweep unit makes a slide. */

#include "game.h"

#define PULSE1 ((u8*)0x4000)
#define PULSE2 ((u8*)0x4004)
#define NOISE ((u8*)0x400C)

static void pulse(volatile u8* channel, u8 volume, u8 sweep, u8 period, u8 length) {
    channel[0] = volume;
    channel[1] = sweep;
    channel[2] = period;
    channel[3] = length;
}

void sound_jump(void) { pulse(PULSE1, 0x84, 0xAB, 0xF0, 0x08 | 1); }
void sound_coin(void) { pulse(PULSE2, 0x86, 0x08, 0x54, 0x08); }
void sound_stomp(void) { pulse(PULSE1, 0x45, 0x9B, 0x80, 0x08 | 2); }
void sound_die(void) { pulse(PULSE1, 0x8A, 0x92, 0x60, 0x08 | 1); }
void sound_win(void) { pulse(PULSE2, 0x8C, 0xBB, 0xA0, 0x08 | 1); }
