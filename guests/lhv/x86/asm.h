/* Numbers that assembly and C share; see x86/cpu.h, where C checks them against its structures. */
#pragma once

#define MAX_CPUS 8
#define STACK_SIZE 16384

/* Selectors in every processor's GDT */
#define SEL_CODE 0x08 /* lhv's own code: 64-bit on amd64, else 32-bit */
#define SEL_DATA 0x10
#define SEL_USER_CODE 0x18
#define SEL_USER_DATA 0x20
#define SEL_CPU 0x28 /* its base is this processor's struct cpu (i386); ring 3 keeps it */
#define SEL_TSS 0x30 /* 16 bytes on amd64 */
#define SEL_CODE32 0x40
#define SEL_CODE16 0x48
#define SEL_DATA16 0x50
#define SEL_USER_CODE32 0x58
#define GDT_ENTRIES 12

/* Interrupt vectors of lhv's own */
#define VECTOR_WAKE 0x40    /* "look into your mailbox" */
#define VECTOR_DONE 0x43    /* "your request is done" */
#define VECTOR_NOTHING 0x41 /* INT n for the sake of the IRET: ends blocking by NMI */
#define VECTOR_TEST 0x50    /* and up: for tests */
#define VECTOR_SPURIOUS 0xff

/* Where the start-up code of the other processors goes: any page below 1 MiB that is free */
#define TRAMPOLINE 0x8000
