/* Where the guests find things; addresses are guest-physical, and mapped to themselves. */
#pragma once

#define RESULT 0x10
#define ASK 0x11

#define CODE 0x1000
#define STACK_TOP 0x2000
#define READY 0x2000
#define STOP 0x2004
#define DATA 0x2010
#define TABLES 0x8000
#define PAGES 0x100000 /* pages that the cases let the guests touch, 2 MiB of them */
#define MEMORY_SIZE 0x300000

#ifndef __ASSEMBLER__
#define PIECE(name) extern const u8 name##_start[], name##_end[]
PIECE(real);
PIECE(ports);
PIECE(mmio);
PIECE(fill);
PIECE(long);
PIECE(watch);
PIECE(count);
PIECE(turn);
#endif
