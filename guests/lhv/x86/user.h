/* Run a piece of lhv itself in ring 3, to see what the processor refuses there. */
#pragma once
#include "x86/traps.h"

/*
 * Call `code`, which ends with LEAVE_USER, in ring 3 with `argument` in AX.  Faults are caught as
 * those of try_... are, if the code has its TRY().
 */
void user_call(const void *code, word argument);

/* The interrupt with which such code ends */
#define VECTOR_LEAVE_USER 0x42
#define LEAVE_USER "int $0x42"
