/* A small pseudo-random generator (xorshift, 32 bits): the same seed gives the same numbers. */
#pragma once
#include "lib/types.h"

struct random {
    u32 state;
};

static inline u32 random_next(struct random *random)
{
    u32 x = random->state ? random->state : 0x9e3779b9;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return random->state = x;
}

/* A number from 0 to limit - 1 */
static inline u32 random_below(struct random *random, u32 limit)
{
    return random_next(random) % limit;
}
