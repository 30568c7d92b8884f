#include "kvm-test/threads.h"
#include "lib/print.h"
#include "lib/program.h"

enum {
    STACK_SIZE = 65536,
    CLONE_THREAD_FLAGS = 0x50f00, /* memory, file system, files, signals, thread, semaphores */
    SYS_sched_getaffinity = 204,
};

static unsigned processors;

void count_processors(void)
{
    u64 mask[16] = { 0 };
    syscall3(SYS_sched_getaffinity, 0, sizeof mask, mask);
    for (unsigned i = 0; i < 64 * ARRAY_LEN(mask); i++)
        processors += mask[i / 64] >> i % 64 & 1;
}

unsigned processor_count(void) { return processors ? processors : 1; }

void move_to(unsigned processor)
{
    u64 mask = BIT64(processor);
    syscall3(SYS_sched_setaffinity, 0, sizeof mask, &mask);
}

void give_way(void) { syscall0(SYS_sched_yield); }

static void __attribute__((used, noreturn)) thread_begin(struct thread *thread)
{
    thread->work(thread->argument);
    __atomic_store_n(&thread->is_done, 1, __ATOMIC_RELEASE);
    for (;;)
        syscall1(SYS_exit, 0);
}

void thread_start(struct thread *thread, void (*work)(void *), void *argument)
{
    thread->work = work;
    thread->argument = argument;
    thread->is_done = 0;
    thread->stack = map_pages(STACK_SIZE);
    word *top = (word *)((u8 *)thread->stack + STACK_SIZE) - 2;
    top[0] = (word)thread;
    long result;
    register long r10 __asm__("r10") = 0, r8 __asm__("r8") = 0;
    /* The child returns with RAX = 0 on its own, nearly empty stack. */
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "movq (%%rsp), %%rdi\n\t"
                     "call thread_begin\n"
                     "1:"
                     : "=a"(result)
                     : "a"(SYS_clone), "D"(CLONE_THREAD_FLAGS), "S"(top), "d"(0), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    if (result < 0) {
        print("Bail out! clone: error %d\n", (int)-result);
        leave(2);
    }
}

void thread_join(struct thread *thread)
{
    while (!__atomic_load_n(&thread->is_done, __ATOMIC_ACQUIRE))
        give_way();
    /* Its stack stays: it may still be on its way out. */
}
