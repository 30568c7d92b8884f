/*
 * What comes while a PAL runs waits until it has returned: L1 and L2 never see the PAL's registers or
 * addresses in an interrupt's frame or a VM exit, and lose nothing.
 */
#include "lib/string.h"
#include "pc/apic.h"
#include "session.h"
#include "test/pair.h"
#include "test/test.h"
#include "vmx/instructions.h"
#include "x86/bits.h"
#include "x86/cpu.h"
#include "x86/instructions.h"

enum { CALLS = 6, GUARD_ROUNDS = 400, TICKS = 3000, VECTOR_TICK = VECTOR_TEST + 3, NMIS = 20 };

static struct patient {
    struct pal pal;
    u32 registered, unregistered;
    word first, last;
    volatile word running;
    u8 buffer[PAL_BUFFER];
} patients[MAX_CPUS];

static void stay_inside(void *arg)
{
    struct patient *patient = arg;
    patient->registered = pal_register(&patient->pal);
    if (patient->registered != TV_SUCCESS)
        return;
    patient->first = pal_call(&patient->pal, PAL_GUARD, 1, patient->buffer);
    patient->running = 1;
    for (unsigned i = 0; i < CALLS; i++)
        patient->last = pal_call(&patient->pal, PAL_GUARD, GUARD_ROUNDS, patient->buffer);
    patient->running = 2;
    patient->unregistered = pal_unregister(&patient->pal);
}

static struct patient *new_patient(void)
{
    struct patient *patient = &patients[this_cpu()->index];
    memset(patient, 0, sizeof *patient);
    tv_begin();
    pal_prepare(&patient->pal, 0);
    return patient;
}

static void check_well(const struct patient *patient)
{
    check_equal("status of registration", patient->registered, TV_SUCCESS);
    check_equal("what the PAL saw", patient->last, patient->first);
    check_equal("status of unregistration", patient->unregistered, TV_SUCCESS);
}

/* ---- the timer, in L2 whose L1 takes external interrupts ---- */

static bool is_inside(const struct patient *patient, word ip)
{
    return ip - (word)patient->pal.base < PAL_PAGES * PAGE_SIZE;
}

TEST("pal", interrupts, "pal-l2-interrupts", TEST_EPT)
{
    struct patient *patient = new_patient();
    unsigned taken = 0;
    vm_needs(PIN, PIN_EXTINT_EXITING);
    vm_control(vm, PIN, PIN_EXTINT_EXITING, 0);
    l2_user_begin(vm, stay_inside, patient);
    vmwrite(VMCS_GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_IF);
    apic_timer(VECTOR_TICK, TICKS);
    while (vm_run(vm) == REASON_EXTINT) {
        bool entry = vm->ip == pal_entry(&patient->pal); /* about to be called */
        check(entry || !is_inside(patient, vm->ip), "an exit inside the PAL");
        taken++;
        interrupts_take();
        apic_timer(VECTOR_TICK, TICKS);
    }
    apic_timer_stop();
    check_equal("L2's end", vm->reason, REASON_VMCALL);
    check(taken > 1, "interrupts came");
    check_well(patient);
}

/* ---- NMIs from another processor, in L1 ---- */

struct sender {
    const struct patient *patient;
    u32 apic_id;
    volatile word sent;
};

static void send_nmis(struct vm *vm __attribute__((unused)), void *arg)
{
    struct sender *sender = arg;
    while (!sender->patient->running)
        cpu_pause();
    while (sender->patient->running == 1 && sender->sent < NMIS) {
        apic_send_nmi(sender->apic_id);
        sender->sent++;
        for (unsigned i = 0; i < 300; i++)
            cpu_pause();
    }
}

TEST("pal", nmis, "pal-nmis", TEST_PAIR)
{
    struct patient *patient = new_patient();
    static struct sender sender;
    sender = (struct sender){ patient, this_cpu()->apic_id, 0 };
    struct pair pair = { .work = send_nmis, .arg = &sender };
    u32 before = this_cpu()->interrupts[EXC_NMI];
    pair_begin(&pair);
    in_l1(vm, stay_inside, patient);
    pair_end(&pair);
    u32 came = this_cpu()->interrupts[EXC_NMI] - before;
    check(sender.sent > 0, "NMIs were sent");
    check(came > 0 && came <= sender.sent, "NMIs came, and none of L0's");
    check_well(patient);
}

/* An NMI from this processor itself, on a PC with one: it comes at once, before the next call. */
TEST("pal", own_nmi, "pal-nmi-of-its-own", 0)
{
    struct patient *patient = new_patient();
    u32 before = this_cpu()->interrupts[EXC_NMI];
    apic_send_nmi(this_cpu()->apic_id);
    in_l1(vm, stay_inside, patient);
    check_equal("NMIs", this_cpu()->interrupts[EXC_NMI] - before, 1);
    check_well(patient);
}
