#include "pc/leave.h"
#include "x86/instructions.h"

enum { DEBUG_EXIT_PORT = 0xf4 };

void leave(u32 status)
{
    outl(DEBUG_EXIT_PORT, status);
    interrupts_off();
    for (;;)
        cpu_halt();
}
