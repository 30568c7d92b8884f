/* The few memory and string functions that lhv needs; there is no C library. */
#pragma once
#include "lib/types.h"

void *memset(void *to, int value, word size);
void *memcpy(void *to, const void *from, word size);
int memcmp(const void *a, const void *b, word size);
word strlen(const char *s);
bool streq(const char *a, const char *b);

/* Does `text` match `pattern`, in which * stands for any run of characters and ? for any one? */
bool glob(const char *pattern, const char *text);
