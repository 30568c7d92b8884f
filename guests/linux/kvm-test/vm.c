#include "kvm-test/vm.h"
#include "lib/print.h"
#include "lib/program.h"
#include "lib/string.h"

enum {
    FAILED = 2,
    PROT_READ_WRITE = 3,
    MAP_SHARED = 1,
    TSS_ADDRESS = 0xfffbd000,
    MOST_LEAVES = 100,
    CR0_PE = 1,
    CR4_PAE = 0x20,
    EFER_LME_LMA = 0x500,
    GIBS_MAPPED = 4,
};
#define CR0_PG 0x80000000ull

static int kvm_file = -1;

long kvm_call(int file, u32 request, const void *argument, const char *what)
{
    long result = syscall3(SYS_ioctl, file, request, argument);
    if (result < 0) {
        print("Bail out! %s: error %d\n", what, (int)-result);
        leave(FAILED);
    }
    return result;
}

static void open_kvm(void)
{
    if (kvm_file >= 0)
        return;
    kvm_file = open_file("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm_file < 0) {
        print("Bail out! /dev/kvm: error %d (is kvm_intel loaded?)\n", -kvm_file);
        leave(FAILED);
    }
    if (kvm_call(kvm_file, KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION") != KVM_API_VERSION) {
        print("Bail out! another version of KVM's interface\n");
        leave(FAILED);
    }
}

void vm_set_memory(struct vm *vm, u32 flags)
{
    struct kvm_region region = { MEMORY_SLOT, flags, 0, MEMORY_SIZE, (word)vm->memory };
    kvm_call(vm->file, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

void vm_make(struct vm *vm)
{
    open_kvm();
    vm->file = (int)kvm_call(kvm_file, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
    kvm_call(vm->file, KVM_SET_TSS_ADDR, (void *)TSS_ADDRESS, "KVM_SET_TSS_ADDR");
    vm->memory = map_pages(MEMORY_SIZE);
    vm_set_memory(vm, 0);
}

void vm_end(struct vm *vm)
{
    close_file(vm->file);
    syscall2(SYS_munmap, vm->memory, MEMORY_SIZE);
}

static void set_cpuid(struct vcpu *vcpu)
{
    static u32 leaves[2 + 10 * MOST_LEAVES];
    leaves[0] = MOST_LEAVES;
    kvm_call(kvm_file, KVM_GET_SUPPORTED_CPUID, leaves, "KVM_GET_SUPPORTED_CPUID");
    kvm_call(vcpu->file, KVM_SET_CPUID2, leaves, "KVM_SET_CPUID2");
}

void vcpu_make(struct vcpu *vcpu, struct vm *vm, int number)
{
    memset(vcpu, 0, sizeof *vcpu);
    vcpu->file = (int)kvm_call(vm->file, KVM_CREATE_VCPU, (void *)(word)number, "KVM_CREATE_VCPU");
    long size = kvm_call(kvm_file, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
    long run = syscall(SYS_mmap, 0, size, PROT_READ_WRITE, MAP_SHARED, vcpu->file, 0);
    if (run < 0 && run > -4096) {
        print("Bail out! mapping a virtual processor: error %d\n", (int)-run);
        leave(FAILED);
    }
    vcpu->run = (void *)run;
    set_cpuid(vcpu);
}

void vcpu_end(struct vcpu *vcpu)
{
    long size = kvm_call(kvm_file, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
    syscall2(SYS_munmap, vcpu->run, size);
    close_file(vcpu->file);
}

/* -- where a guest begins ------------------------------------------------------------------------ */

static struct kvm_segment segment(bool is_code, enum mode mode)
{
    struct kvm_segment it = { .type = is_code ? 11 : 3, .present = 1, .s = 1 };
    it.limit = mode == REAL ? 0xffff : 0xffffffff;
    it.selector = mode == REAL ? 0 : is_code ? 8 : 16;
    it.g = mode != REAL;
    it.db = mode == PROTECTED || (mode == LONG && !is_code);
    it.l = mode == LONG && is_code;
    return it;
}

/* 4-level tables that map 4 GiB to itself with pages of 2 MiB. */
static void make_tables(struct vm *vm)
{
    u64 *table = (u64 *)(vm->memory + TABLES);
    table[0] = (TABLES + PAGE_SIZE) | 3;
    for (u64 i = 0; i < GIBS_MAPPED; i++)
        table[512 + i] = (TABLES + (2 + i) * PAGE_SIZE) | 3;
    for (u64 i = 0; i < GIBS_MAPPED * 512; i++)
        table[1024 + i] = i << 21 | 0x83;
}

void vcpu_start(struct vcpu *vcpu, struct vm *vm, enum mode mode, const u8 *start, const u8 *end)
{
    struct kvm_sregs sregs = { 0 };
    kvm_call(vcpu->file, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
    sregs.cs = segment(true, mode);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(false, mode);
    if (mode != REAL)
        sregs.cr0 |= CR0_PE;
    if (mode == LONG) {
        make_tables(vm);
        sregs.cr3 = TABLES;
        sregs.cr4 |= CR4_PAE;
        sregs.efer |= EFER_LME_LMA;
        sregs.cr0 |= CR0_PG;
    }
    kvm_call(vcpu->file, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
    memcpy(vm->memory + CODE, start, (word)(end - start));
    vcpu_set(vcpu, 0, 0, 0);
}

void vcpu_set(struct vcpu *vcpu, u64 rbx, u64 rcx, u64 rdx)
{
    struct kvm_regs regs = { .rbx = rbx, .rcx = rcx, .rdx = rdx };
    regs.rip = CODE;
    regs.rsp = STACK_TOP;
    regs.rflags = 2;
    kvm_call(vcpu->file, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

/* -- what a guest asks and tells ------------------------------------------------------------------ */

static void note(u64 *list, unsigned *count, u64 value)
{
    if (*count < MOST_RESULTS)
        list[(*count)++] = value;
}

static u64 next_answer(struct talk *talk)
{
    return talk->answer_count < MOST_RESULTS ? talk->answers[talk->answer_count++] : 0;
}

static void on_io(struct vcpu *vcpu)
{
    u8 *data = (u8 *)vcpu->run + vcpu->run->io.data_offset;
    unsigned size = vcpu->run->io.size;
    for (u32 i = 0; i < vcpu->run->io.count; i++, data += size) {
        u64 value = 0;
        if (vcpu->run->io.is_write) {
            memcpy(&value, data, size);
            note(vcpu->talk.results, &vcpu->talk.result_count, value);
        } else {
            value = next_answer(&vcpu->talk);
            memcpy(data, &value, size);
        }
    }
}

static void on_mmio(struct vcpu *vcpu)
{
    u64 value = 0;
    if (vcpu->run->mmio.is_write) {
        memcpy(&value, vcpu->run->mmio.data, vcpu->run->mmio.length);
        note(vcpu->talk.written, &vcpu->talk.written_count, vcpu->run->mmio.address);
        note(vcpu->talk.written, &vcpu->talk.written_count, value);
    } else {
        value = next_answer(&vcpu->talk);
        memcpy(vcpu->run->mmio.data, &value, vcpu->run->mmio.length);
    }
}

bool vcpu_run(struct vcpu *vcpu)
{
    for (;;) {
        long result = syscall3(SYS_ioctl, vcpu->file, KVM_RUN, 0);
        if (result == -EINTR || result == -EAGAIN)
            continue;
        if (result < 0) {
            print("# KVM_RUN: error %d\n", (int)-result);
            return false;
        }
        switch (vcpu->run->exit_reason) {
        case KVM_EXIT_IO: on_io(vcpu); break;
        case KVM_EXIT_MMIO: on_mmio(vcpu); break;
        case KVM_EXIT_HLT: return true;
        default:
            print("# KVM_RUN: exit reason %u, %llx\n", vcpu->run->exit_reason,
                  vcpu->run->failure.reason);
            return false;
        }
    }
}
