/* A virtual machine with a little memory, and its virtual processors. */
#pragma once
#include "kvm-test/abi.h"
#include "kvm-test/guest.h"

enum mode { REAL, PROTECTED, LONG };
enum { MOST_RESULTS = 16, MEMORY_SLOT = 0 };

struct vm {
    int file;
    u8 *memory; /* MEMORY_SIZE bytes from guest-physical 0 on */
};

/* What a guest has told and what it is to be answered. */
struct talk {
    u64 results[MOST_RESULTS];
    unsigned result_count;
    u64 answers[MOST_RESULTS]; /* to IN and to MMIO reads, in their order */
    unsigned answer_count;
    u64 written[MOST_RESULTS]; /* by MMIO, each address followed by the value */
    unsigned written_count;
};

struct vcpu {
    int file;
    struct kvm_run *run;
    struct talk talk;
};

/* Failures of KVM itself end the program with a line that says which call failed. */
void vm_make(struct vm *vm);
void vm_end(struct vm *vm);
void vm_set_memory(struct vm *vm, u32 flags);
void vcpu_make(struct vcpu *vcpu, struct vm *vm, int number);
void vcpu_end(struct vcpu *vcpu);

/* Begin at a piece of guest.S, which is copied to CODE. */
void vcpu_start(struct vcpu *vcpu, struct vm *vm, enum mode mode, const u8 *start, const u8 *end);
void vcpu_set(struct vcpu *vcpu, u64 rbx, u64 rcx, u64 rdx);

/* Run until HLT (true), or until the guest fails (false, with a line about it). */
bool vcpu_run(struct vcpu *vcpu);

/* Call KVM; what fails ends the program. */
long kvm_call(int file, u32 request, const void *argument, const char *what);
