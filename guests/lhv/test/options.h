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

/* Copy the first item of a list; return the rest of the list. */
const char *options_item(const char *list, char *item);

/* Does an item of a list name the subject, or match the name? */
bool options_match(const char *item, const char *subject, const char *name);

/* Is a test asked for? */
bool options_select(const char *subject, const char *name);
