/* What our programs for Linux share: how they begin and end, and files. */
#pragma once
#include "lib/syscall.h"

/* The program's own function; what it returns is the program's status. */
int program(int count, char **arguments, char **environment);

void __attribute__((noreturn)) leave(int status);

enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CLOEXEC = 02000000 };

static inline int open_file(const char *path, int flags)
{
    return (int)syscall3(SYS_open, path, flags, 0);
}

static inline void close_file(int file) { syscall1(SYS_close, file); }

/* Fill `buffer` from a file, zero-terminated; the number of bytes, or a negative error number. */
long read_file(const char *path, char *buffer, word capacity);

/* Anonymous memory of whole pages, or NULL. */
void *map_pages(word size);
