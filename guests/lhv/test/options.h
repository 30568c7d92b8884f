/* What the command line asks for. */
#pragma once
#include "lib/types.h"

struct options {
    char tests[1024], skip[1024]; /* lists of subjects or patterns, separated by commas */
    u32 soak, seed, cpus;
    bool list, quiet;
};
extern struct options options;

void options_parse(const char *command_line);

/* Is a test asked for? */
bool options_select(const char *subject, const char *name);
