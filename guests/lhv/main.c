/* From the loader to the tests. */
#include "lib/print.h"
#include "pc/apic.h"
#include "pc/console.h"
#include "pc/leave.h"
#include "pc/pic.h"
#include "pc/smp.h"
#include "test/options.h"
#include "test/runner.h"
#include "vmx/caps.h"
#include "vmx/pages.h"
#include "vmx/vm.h"
#include "x86/cpu.h"

/* The beginning of the multiboot information structure */
struct multiboot_info {
    u32 flags, memory_lower, memory_upper, boot_device, command_line;
};
enum { MULTIBOOT_MEMORY = BIT(0), MULTIBOOT_COMMAND_LINE = BIT(2) };

static struct vm vms[MAX_CPUS];

static void read_multiboot(const struct multiboot_info *info)
{
    if (info->flags & MULTIBOOT_MEMORY)
        ram_end = ((u64)info->memory_upper + 1024) * 1024;
    if (info->flags & MULTIBOOT_COMMAND_LINE)
        options_parse((const char *)(word)info->command_line);
}

void lhv_main(u32 magic, const struct multiboot_info *info);
void lhv_main(u32 magic __attribute__((unused)), const struct multiboot_info *info)
{
    console_start();
    idt_build();
    cpu_set_up(&cpus[0], 0);
    read_multiboot(info);
    print("TAP version 13\n");
    if (options.list) {
        runner_list();
        leave(0);
    }
    caps_read();
    if (!caps.vmx) {
        print("Bail out! this processor offers no VMX\n");
        leave(1);
    }
    pic_mask_all();
    apic_start();
    for (unsigned i = 0; i < MAX_CPUS; i++)
        cpus[i].vm = &vms[i];
    smp_start(options.cpus);
    leave(runner_run_all() ? 1 : 0);
}
