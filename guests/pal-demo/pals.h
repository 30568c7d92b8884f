/*
 * The PAL: one function of three parameters, which does what the first one says.  Its code is copied
 * to where it is to run; its data is the page behind its code.
 */
#pragma once
#include "tv.h"

enum pal_operation {
    PAL_STORE,    /* remember a value */
    PAL_LOAD,     /* return it */
    PAL_ADD,      /* add to it, slowly */
    PAL_ECHO,     /* XOR the buffer with the value; return the sum of its bytes */
    PAL_GUARD,    /* for so many rounds, see that nobody changes the marks in its pages; return them */
    PAL_EXTEND,   /* extend the PCR by the first half of the buffer; return the status */
    PAL_READ_PCR, /* read the PCR into the first half of the buffer */
    PAL_SHARED,   /* call the function at the value, in a page of shared code */
    PAL_MISDEED,  /* do what no PAL may */
};

/* For PAL_MISDEED */
enum pal_misdeed {
    PAL_UNDEFINED,
    PAL_HALT,
    PAL_INTERRUPT,
    PAL_WRITE_CODE,
    PAL_READ_OUTSIDE,
    PAL_PORT,
    PAL_FLOAT,
    PAL_INVLPG,
    PAL_OVERFLOW,
    PAL_JUMP_OUTSIDE,
    PAL_LOAD_CR3,
    PAL_SEGMENT,
    PAL_MISDEEDS,
};

enum { PAL_BUFFER = 64, PAL_MARK = 0xff0 /* where in a page nothing else is */ };

/* What nobody sees but the PAL */
struct pal_data {
    volatile word secret;
};

extern const u8 pal_code[], pal_code_end[], shared_code[], shared_code_end[];
