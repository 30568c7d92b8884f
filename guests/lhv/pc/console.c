/* A 16550 UART at 3F8h, driven by polling: no interrupts. */
#include "pc/console.h"
#include "x86/instructions.h"

enum {
    COM1 = 0x3f8,
    DATA = COM1,
    INTERRUPT_ENABLE = COM1 + 1,
    FIFO_CONTROL = COM1 + 2,
    LINE_CONTROL = COM1 + 3,
    MODEM_CONTROL = COM1 + 4,
    LINE_STATUS = COM1 + 5,

    LINE_DIVISOR_ACCESS = 0x80,
    LINE_8N1 = 0x03,
    STATUS_TRANSMITTER_EMPTY = 0x20,
};

void console_start(void)
{
    outb(INTERRUPT_ENABLE, 0);
    outb(LINE_CONTROL, LINE_DIVISOR_ACCESS);
    outb(DATA, 1); /* divisor 1: 115200 baud */
    outb(INTERRUPT_ENABLE, 0);
    outb(LINE_CONTROL, LINE_8N1);
    outb(FIFO_CONTROL, 0x07);  /* enabled and emptied */
    outb(MODEM_CONTROL, 0x03); /* DTR, RTS */
}

static void put(char c)
{
    /* Bounded: a PC without a UART reads as all ones, one with a stuck UART should not hang us. */
    for (unsigned i = 0; i < 1000000; i++)
        if (inb(LINE_STATUS) & STATUS_TRANSMITTER_EMPTY)
            break;
    outb(DATA, (u8)c);
}

void console_write(const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            put('\r');
        put(*text);
    }
}
