#include "pal-demo/l2.h"
#include "kvm-test/abi.h"
#include "lib/print.h"
#include "lib/program.h"
#include "lib/string.h"

enum {
    END_PORT = 0x10,
    SMALL_TSS = 0xfffbd000,
    PROT_READ_WRITE = 3,
    MAP_SHARED = 1,
    CODE_SELECTOR = 0x1b,
    DATA_SELECTOR = 0x23,
    CR4_PSE = 0x10,
    CR4_PAE = 0x20,
    EFER_LME_LMA = 0x500,
    USER_PAGE = 0x87, /* present, writable, of user mode, large */
    RFLAGS_IOPL_3 = 0x3002,
    FAILED = 2,
};
#define CR0_PE_PG 0x80000001ull

extern u8 __executable_start[], _end[];

static long call_kvm(int file, u32 request, const void *argument, const char *what)
{
    long result = syscall3(SYS_ioctl, file, request, argument);
    if (result < 0) {
        print("Bail out! %s: error %d\n", what, (int)-result);
        leave(FAILED);
    }
    return result;
}

static void add_memory(int vm, u32 slot, word start, word end)
{
    struct kvm_region region = { slot, 0, start, end - start, start };
    call_kvm(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

/* Tables that map the first GiB to itself, for user mode; the value of CR3. */
static word make_tables(void)
{
    word tables = WINDOW + L2_TABLES * PAGE_SIZE;
    if (IS_64BIT) {
        u64 *top = (u64 *)tables, *pointers = top + 512, *directory = top + 1024;
        top[0] = (word)pointers | 7;
        pointers[0] = (word)directory | 7;
        for (u64 i = 0; i < 512; i++)
            directory[i] = i << 21 | USER_PAGE;
    } else {
        u32 *directory = (u32 *)tables;
        for (u32 i = 0; i < 256; i++)
            directory[i] = i << 22 | USER_PAGE;
    }
    return tables;
}

static struct kvm_segment user_segment(bool is_code)
{
    struct kvm_segment it = { .limit = 0xffffffff, .present = 1, .dpl = 3, .s = 1, .g = 1 };
    it.type = is_code ? 11 : 3;
    it.selector = is_code ? CODE_SELECTOR : DATA_SELECTOR;
    it.l = is_code && IS_64BIT;
    it.db = !it.l;
    return it;
}

static void set_state(int vcpu, void (*function)(void))
{
    struct kvm_sregs sregs = { 0 };
    struct kvm_regs regs = { 0 };
    call_kvm(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
    sregs.cs = user_segment(true);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = user_segment(false);
    sregs.cr3 = make_tables();
    sregs.cr4 |= IS_64BIT ? CR4_PAE : CR4_PSE;
    sregs.efer |= IS_64BIT ? EFER_LME_LMA : 0;
    sregs.cr0 |= CR0_PE_PG;
    call_kvm(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
    regs.rip = (word)function;
    regs.rsp = WINDOW + WINDOW_SIZE - 2 * sizeof(word) - sizeof(word);
    regs.rflags = RFLAGS_IOPL_3;
    call_kvm(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

static struct kvm_run *make_vcpu(int kvm, int vm, int *vcpu_out)
{
    static u32 leaves[2 + 10 * 100] = { 100 };
    int vcpu = (int)call_kvm(vm, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU");
    long size = call_kvm(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
    call_kvm(kvm, KVM_GET_SUPPORTED_CPUID, leaves, "KVM_GET_SUPPORTED_CPUID");
    call_kvm(vcpu, KVM_SET_CPUID2, leaves, "KVM_SET_CPUID2");
    *vcpu_out = vcpu;
    return (void *)syscall(SYS_mmap, 0, size, PROT_READ_WRITE, MAP_SHARED, vcpu, 0);
}

void l2_end(void) { __asm__ volatile("outb %%al, %0" : : "i"(END_PORT), "a"(0)); }

void l2_run(void (*function)(void))
{
    int kvm = open_file("/dev/kvm", O_RDWR | O_CLOEXEC), vcpu;
    int vm = (int)call_kvm(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
    call_kvm(vm, KVM_SET_TSS_ADDR, (void *)SMALL_TSS, "KVM_SET_TSS_ADDR");
    add_memory(vm, 0, (word)__executable_start & -(word)PAGE_SIZE,
               ((word)_end + PAGE_SIZE - 1) & -(word)PAGE_SIZE);
    add_memory(vm, 1, WINDOW, WINDOW + WINDOW_SIZE);
    struct kvm_run *run = make_vcpu(kvm, vm, &vcpu);
    set_state(vcpu, function);
    long result;
    do
        result = syscall3(SYS_ioctl, vcpu, KVM_RUN, 0);
    while (result == -EINTR || result == -EAGAIN);
    if (result < 0 || run->exit_reason != KVM_EXIT_IO)
        print("# KVM_RUN: %d, exit reason %u\n", (int)result, run->exit_reason);
}
