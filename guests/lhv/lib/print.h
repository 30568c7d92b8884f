/*
 * Formatted text.  Conversions: %s %c %u (u32) %d (int) %x (u32) %lx (word) %llx (u64), a minimum
 * width as in %02x, and %%.
 */
#pragma once
#include "lib/types.h"

typedef __builtin_va_list va_list;

/* Text that grows in a fixed buffer; what does not fit is dropped.  Always ends with a NUL. */
struct text {
    char *start;
    word length, capacity;
};

void text_vprint(struct text *to, const char *format, va_list args);
void text_print(struct text *to, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Print to the console (the UART). */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
