/* System calls of Linux, by their numbers for 64-bit and for 32-bit programs. */
#pragma once
#include "lib/types.h"

#if IS_64BIT
#define NUMBER(wide, narrow) wide
#else
#define NUMBER(wide, narrow) narrow
#endif

enum {
    SYS_read = NUMBER(0, 3),
    SYS_write = NUMBER(1, 4),
    SYS_open = NUMBER(2, 5),
    SYS_close = NUMBER(3, 6),
    SYS_mmap = NUMBER(9, 192), /* for 32 bits: mmap2, whose offset is in pages */
    SYS_mprotect = NUMBER(10, 125),
    SYS_munmap = NUMBER(11, 91),
    SYS_mremap = NUMBER(25, 163),
    SYS_madvise = NUMBER(28, 219),
    SYS_ioctl = NUMBER(16, 54),
    SYS_access = NUMBER(21, 33),
    SYS_sched_yield = NUMBER(24, 158),
    SYS_dup2 = NUMBER(33, 63),
    SYS_clone = NUMBER(56, 120),
    SYS_fork = NUMBER(57, 2),
    SYS_execve = NUMBER(59, 11),
    SYS_exit = NUMBER(60, 1),
    SYS_wait4 = NUMBER(61, 114),
    SYS_mkdir = NUMBER(83, 39),
    SYS_mlockall = NUMBER(151, 152),
    SYS_setsid = NUMBER(112, 66),
    SYS_mount = NUMBER(165, 21),
    SYS_reboot = NUMBER(169, 88),
    SYS_iopl = NUMBER(172, 110),
    SYS_sched_setaffinity = NUMBER(203, 241),
    SYS_exit_group = NUMBER(231, 252),
    SYS_finit_module = NUMBER(313, 350),
};

enum { ENOENT = 2, EINTR = 4, EAGAIN = 11 };

/* Negative results are error numbers. */
static inline long syscall(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
#if IS_64BIT
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
#else
    /* The sixth argument goes into EBP, which may hold the frame. */
    long arguments[2] = { number, f };
    __asm__ volatile("pushl %%ebp; movl 4(%%eax), %%ebp; movl (%%eax), %%eax; int $0x80; popl %%ebp"
                     : "=a"(result)
                     : "a"(arguments), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                     : "memory");
#endif
    return result;
}

#define syscall0(n) syscall(n, 0, 0, 0, 0, 0, 0)
#define syscall1(n, a) syscall(n, (long)(a), 0, 0, 0, 0, 0)
#define syscall2(n, a, b) syscall(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define syscall3(n, a, b, c) syscall(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define syscall4(n, a, b, c, d) syscall(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define syscall5(n, a, b, c, d, e)                                                                 \
    syscall(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
