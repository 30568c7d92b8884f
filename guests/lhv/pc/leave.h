/* The end: tell an emulator, 0 for success, and halt.  On a real PC nobody hears the first. */
#pragma once
#include "lib/types.h"

void leave(u32 status) __attribute__((noreturn));
