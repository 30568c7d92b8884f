#include "pc/pic.h"
#include "x86/instructions.h"

enum { MASTER = 0x20, SLAVE = 0xa0, VECTORS = 0xe0 };

/* Moved away from the vectors of exceptions first: a spurious interrupt comes despite the mask. */
void pic_mask_all(void)
{
    outb(MASTER, 0x11); /* begin initialisation, four words */
    outb(SLAVE, 0x11);
    outb(MASTER + 1, VECTORS);
    outb(SLAVE + 1, VECTORS + 8);
    outb(MASTER + 1, 1 << 2); /* the slave is on line 2 */
    outb(SLAVE + 1, 2);
    outb(MASTER + 1, 1); /* 8086 mode */
    outb(SLAVE + 1, 1);
    outb(MASTER + 1, 0xff);
    outb(SLAVE + 1, 0xff);
}
