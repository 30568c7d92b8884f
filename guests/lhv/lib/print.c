#include "lib/print.h"
#include "lib/string.h"
#include "pc/console.h"

static void put(struct text *to, char c)
{
    if (to->length + 1 >= to->capacity)
        return;
    to->start[to->length++] = c;
    to->start[to->length] = 0;
}

static void put_padded(struct text *to, const char *digits, unsigned count, unsigned width,
                       char pad)
{
    for (unsigned i = count; i < width; i++)
        put(to, pad);
    while (count--)
        put(to, digits[count]); /* digits come lowest first */
}

static void put_hex(struct text *to, u64 value, unsigned width, char pad)
{
    char digits[16];
    unsigned n = 0;
    do
        digits[n++] = "0123456789abcdef"[value & 15];
    while ((value >>= 4) != 0);
    put_padded(to, digits, n, width, pad);
}

static void put_decimal(struct text *to, u32 value, unsigned width, char pad)
{
    char digits[10];
    unsigned n = 0;
    do
        digits[n++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    put_padded(to, digits, n, width, pad);
}

static void put_string(struct text *to, const char *s)
{
    while (*s)
        put(to, *s++);
}

static void put_signed(struct text *to, int value, unsigned width, char pad)
{
    if (value < 0)
        put(to, '-');
    put_decimal(to, value < 0 ? 0u - (u32)value : (u32)value, width, pad);
}

void text_vprint(struct text *to, const char *format, va_list args)
{
    for (; *format; format++) {
        if (*format != '%') {
            put(to, *format);
            continue;
        }
        format++;
        char pad = *format == '0' ? '0' : ' ';
        unsigned width = 0, longs = 0;
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + (unsigned)(*format - '0');
        for (; *format == 'l'; format++)
            longs++;
        switch (*format) {
        case 's': put_string(to, __builtin_va_arg(args, const char *)); break;
        case 'c': put(to, (char)__builtin_va_arg(args, int)); break;
        case 'u': put_decimal(to, __builtin_va_arg(args, u32), width, pad); break;
        case 'd': put_signed(to, __builtin_va_arg(args, int), width, pad); break;
        case 'x':
            if (longs == 2)
                put_hex(to, __builtin_va_arg(args, u64), width, pad);
            else if (longs == 1)
                put_hex(to, __builtin_va_arg(args, word), width, pad);
            else
                put_hex(to, __builtin_va_arg(args, u32), width, pad);
            break;
        default: put(to, *format); break;
        }
    }
}

void text_print(struct text *to, const char *format, ...)
{
    va_list args;
    __builtin_va_start(args, format);
    text_vprint(to, format, args);
    __builtin_va_end(args);
}

void print(const char *format, ...)
{
    char line[512] = "";
    struct text text = { line, 0, sizeof line };
    va_list args;
    __builtin_va_start(args, format);
    text_vprint(&text, format, args);
    __builtin_va_end(args);
    console_write(line);
}
