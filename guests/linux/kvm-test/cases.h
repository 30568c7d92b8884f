/* The cases: each has a new virtual machine with two virtual processors. */
#pragma once
#include "lib/types.h"

struct kvm_case {
    const char *name;
    bool (*run)(void);
};

extern const struct kvm_case CASES[];
extern const unsigned CASE_COUNT;

bool run_case(const struct kvm_case *one);
