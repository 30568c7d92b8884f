/* Runs tests and reports them in the Test Anything Protocol, version 13. */
#pragma once
#include "lib/types.h"

void runner_list(void);

/* Returns the number of tests that failed or were broken. */
unsigned runner_run_all(void);
