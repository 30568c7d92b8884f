/*
 * TrustVisor, as software that runs on it sees it: hypercalls, the descriptor of a PAL, calls of PALs.
 * The numbers and structures are those of docs/trustvisor.md; they are the same for 32 and 64 bits.
 */
#pragma once
#include "lib/types.h"

enum tv_function {
    TV_PING = 0x54560000,
    TV_REGISTER,
    TV_UNREGISTER,
    TV_LIST,
    TV_PCR_READ,
    TV_PCR_EXTEND,
};
#define TV_SIGNATURE 0x54565054u

enum tv_status {
    TV_SUCCESS,
    TV_UNKNOWN_FUNCTION,
    TV_BAD_ADDRESS,
    TV_BAD_DESCRIPTOR,
    TV_BAD_SECTION,
    TV_BAD_ENTRY,
    TV_BAD_PARAMETERS,
    TV_OVERLAP,
    TV_NOT_OWNED,
    TV_NO_ROOM,
    TV_NO_SUCH_PAL,
    TV_NOT_ALLOWED,
    TV_BUSY,
    TV_PAL_FAULT,
};

enum tv_section_kind { TV_CODE = 1, TV_DATA, TV_PARAMETERS, TV_STACK, TV_SHARED_CODE };
enum tv_parameter_kind { TV_INTEGER = 1, TV_IN, TV_OUT, TV_IN_OUT };

struct tv_descriptor {
    u32 version, sections;
    u64 entry;
    u32 parameters, zero;
    struct {
        u32 kind, size;
    } parameter[6];
    struct {
        u32 kind, pages;
        u64 address;
    } section[8];
};
_Static_assert(sizeof(struct tv_descriptor) == 200, "the layout of docs/trustvisor.md");

struct tv_record {
    u32 id, flags;
    u64 entry;
    u8 measurement[32], pcr[32];
    u64 calls;
} __attribute__((packed));

struct tv_answer {
    u32 status, value;
};

/* Leaves the status as it was where there is no TrustVisor (and the VMCALL does nothing). */
static inline struct tv_answer tv_hypercall(enum tv_function function, word first, word second)
{
    u32 ax = function, dx = 0;
    asm volatile("vmcall" : "+a"(ax), "+d"(dx) : "b"(first), "c"(second) : "memory", "cc");
    return (struct tv_answer){ ax, dx };
}

/* What came of a call: failed is the carry flag, and then the value is a tv_status. */
struct tv_result {
    word value;
    bool failed;
};

struct tv_result tv_call(word entry, word first, word second, word third);
