#include "lib/program.h"
#include "lib/string.h"
#include "pc/console.h"

enum { STDOUT = 1, PROT_READ_WRITE = 3, MAP_PRIVATE_ANONYMOUS = 0x22 };

/* `stack` is as the kernel left it: the count, the arguments, NULL, the environment, NULL. */
void __attribute__((used)) start(word *stack)
{
    int count = (int)stack[0];
    char **arguments = (char **)(stack + 1);
    leave(program(count, arguments, arguments + count + 1));
}

void leave(int status)
{
    for (;;)
        syscall1(SYS_exit_group, status);
}

void console_write(const char *text)
{
    word length = 0;
    while (text[length])
        length++;
    while (length) {
        long done = syscall3(SYS_write, STDOUT, text, length);
        if (done == -EINTR || done == -EAGAIN)
            continue;
        if (done <= 0)
            return;
        text += done;
        length -= (word)done;
    }
}

long read_file(const char *path, char *buffer, word capacity)
{
    int file = open_file(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return file;
    word length = 0;
    while (length + 1 < capacity) {
        long count = syscall3(SYS_read, file, buffer + length, capacity - 1 - length);
        if (count <= 0)
            break;
        length += (word)count;
    }
    buffer[length] = 0;
    close_file(file);
    return (long)length;
}

void *map_pages(word size)
{
    long address = syscall(SYS_mmap, 0, (long)size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    return (word)address >= (word)-4096 ? NULL : (void *)address;
}
