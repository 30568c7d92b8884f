#include "lib/string.h"

void *memset(void *to, int value, word size)
{
    u8 *at = to;
    while (size--)
        *at++ = (u8)value;
    return to;
}

void *memcpy(void *to, const void *from, word size)
{
    u8 *out = to;
    const u8 *in = from;
    while (size--)
        *out++ = *in++;
    return to;
}

int memcmp(const void *a, const void *b, word size)
{
    const u8 *x = a, *y = b;
    for (; size--; x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

word strlen(const char *s)
{
    word n = 0;
    while (s[n])
        n++;
    return n;
}

bool streq(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

bool glob(const char *pattern, const char *text)
{
    if (*pattern == '*')
        return glob(pattern + 1, text) || (*text && glob(pattern, text + 1));
    if (!*text)
        return !*pattern;
    return (*pattern == '?' || *pattern == *text) && glob(pattern + 1, text + 1);
}
