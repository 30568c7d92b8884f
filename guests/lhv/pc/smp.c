#include "pc/smp.h"
#include "lib/string.h"
#include "pc/apic.h"
#include "pc/firmware.h"
#include "x86/bits.h"
#include "x86/instructions.h"

extern const u8 trampoline[], trampoline_end[];
u8 *ap_stack; /* of the processor that is being started */

static void serve_mailbox(struct cpu *cpu)
{
    struct request *request = cpu->mailbox;
    struct cpu *from = request->from;
    cpu->mailbox = NULL;
    request->work(request->arg);
    request->done = true; /* from here on the request may be gone */
    if (from)
        apic_send(from->apic_id, VECTOR_DONE);
}

/* Halt and serve until the request is done, and its interrupt has come. */
static void serve_until_done(struct request *request)
{
    struct cpu *cpu = this_cpu();
    while (!request->done || !cpu->interrupts[VECTOR_DONE]) {
        if (cpu->interrupts[VECTOR_WAKE]) {
            cpu->interrupts[VECTOR_WAKE] = 0;
            serve_mailbox(cpu);
        } else {
            interrupts_on_and_halt();
        }
    }
    cpu->interrupts[VECTOR_DONE] = 0;
}

static void post(struct cpu *cpu, struct request *request)
{
    request->done = false;
    cpu->mailbox = request;
    apic_send(cpu->apic_id, VECTOR_WAKE);
}

void smp_call(struct cpu *cpu, void (*work)(void *), void *arg)
{
    if (cpu == this_cpu()) {
        work(arg);
        return;
    }
    struct request request = { .work = work, .arg = arg, .from = this_cpu() };
    post(cpu, &request);
    serve_until_done(&request);
}

void smp_begin(struct cpu *cpu, struct request *request)
{
    request->from = NULL;
    post(cpu, request);
}

void smp_end(struct request *request)
{
    while (!request->done)
        cpu_pause();
}

void ap_main(void) __attribute__((noreturn));
void ap_main(void)
{
    struct cpu *cpu = &cpus[cpu_count];
    cpu_set_up(cpu, cpu_count);
    apic_start();
    cpu->online = true;
    struct request never = { .done = false };
    for (;;)
        serve_until_done(&never);
}

static bool start_one(u32 id)
{
    struct cpu *cpu = &cpus[cpu_count];
    cpu->apic_id = id;
    ap_stack = cpu->stack + STACK_SIZE;
    apic_start_other(id, TRAMPOLINE);
    for (unsigned i = 0; i < 10000000 && !cpu->online; i++)
        cpu_pause();
    return cpu->online;
}

void smp_start(unsigned limit)
{
    u32 ids[MAX_CPUS];
    unsigned n = firmware_processors(ids, MAX_CPUS);
    memcpy((void *)TRAMPOLINE, trampoline, (word)(trampoline_end - trampoline));
    cpus[0].apic_id = apic_id();
    cpus[0].online = true;
    for (unsigned i = 0; i < n && cpu_count < limit; i++)
        if (ids[i] != cpus[0].apic_id && start_one(ids[i]))
            cpu_count++;
}
