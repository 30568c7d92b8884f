#include "x86/user.h"
#include "x86/cpu.h"

void user_enter(const void *code, word argument, word user_stack, word *ring0_stack)
    __attribute__((noreturn));

enum { RING0_STACK = 4 }; /* where a TSS, 32-bit or 64-bit, has the stack of ring 0 */

static u8 user_stacks[MAX_CPUS][1024] ALIGNED(16);

void user_call(const void *code, word argument)
{
    struct cpu *cpu = this_cpu();
    word stack = (word)user_stacks[cpu->index] + sizeof user_stacks[0];
    if (context_save(&cpu->leave_user))
        return;
    load_gs(cpu);
    user_enter(code, argument, stack, (word *)((u8 *)&cpu->tss + RING0_STACK));
}
