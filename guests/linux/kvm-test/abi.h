/* The parts of KVM's interface that we use: Linux documentation, "The Definitive KVM API". */
#pragma once
#include "lib/types.h"

enum {
    KVM_GET_API_VERSION = 0xae00,
    KVM_CREATE_VM = 0xae01,
    KVM_GET_VCPU_MMAP_SIZE = 0xae04,
    KVM_CREATE_VCPU = 0xae41,
    KVM_SET_TSS_ADDR = 0xae47,
    KVM_RUN = 0xae80,
};
#define KVM_GET_SUPPORTED_CPUID 0xc008ae05u
#define KVM_GET_DIRTY_LOG 0x4010ae42u
#define KVM_SET_USER_MEMORY_REGION 0x4020ae46u
#define KVM_GET_REGS 0x8090ae81u
#define KVM_SET_REGS 0x4090ae82u
#define KVM_GET_SREGS 0x8138ae83u
#define KVM_SET_SREGS 0x4138ae84u
#define KVM_SET_CPUID2 0x4008ae90u

enum { KVM_API_VERSION = 12, KVM_MEM_LOG_DIRTY_PAGES = 1 };

enum exit {
    KVM_EXIT_IO = 2,
    KVM_EXIT_HLT = 5,
    KVM_EXIT_MMIO = 6,
    KVM_EXIT_SHUTDOWN = 8,
    KVM_EXIT_FAIL_ENTRY = 9,
    KVM_EXIT_INTERNAL_ERROR = 17,
};

struct kvm_region {
    u32 slot, flags;
    u64 guest_address, size, host_address;
};

struct kvm_dirty_log {
    u32 slot, padding;
    u64 *bitmap;
};

struct kvm_regs {
    u64 rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8_15[8], rip, rflags;
};

struct kvm_segment {
    u64 base;
    u32 limit;
    u16 selector;
    u8 type, present, dpl, db, s, l, g, avl, unusable, padding;
};

struct kvm_table {
    u64 base;
    u16 limit, padding[3];
};

struct kvm_sregs {
    struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
    struct kvm_table gdt, idt;
    u64 cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupts[4];
};

struct kvm_run {
    u8 request_interrupt_window, immediate_exit, padding[6];
    u32 exit_reason;
    u8 ready_for_interrupt, if_flag;
    u16 flags;
    u64 cr8, apic_base;
    union {
        struct {
            u8 is_write, size;
            u16 port;
            u32 count;
            u64 data_offset;
        } io;
        struct {
            u64 address;
            u8 data[8];
            u32 length;
            u8 is_write;
        } mmio;
        struct {
            u64 reason;
        } failure;
    };
};

_Static_assert(sizeof(struct kvm_region) == 32, "struct kvm_userspace_memory_region");
_Static_assert(sizeof(struct kvm_regs) == 0x90, "struct kvm_regs");
_Static_assert(sizeof(struct kvm_segment) == 24, "struct kvm_segment");
_Static_assert(sizeof(struct kvm_sregs) == 0x138, "struct kvm_sregs");
_Static_assert(__builtin_offsetof(struct kvm_run, io) == 32, "struct kvm_run");
