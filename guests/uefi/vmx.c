// A UEFI application that enters VMX operation, runs a guest in its own address space, and leaves.
//
// The guest executes CPUID and VMCALL; what it asks for and what it gets is printed. The
// application returns EFI_SUCCESS if all was as it should be.
#include "efi.h"
#include "vmx.h"

static struct efi_text_output *screen;

static void say(const char *text)
{
    u16 line[96];
    u32 at = 0;

    for (; *text && at < sizeof(line) / sizeof(*line) - 3; text++) {
        if (*text == '\n')
            line[at++] = '\r';
        line[at++] = (u8)*text;
    }
    line[at] = 0;
    screen->output_string(screen, line);
}

static void say_number(const char *name, u64 value)
{
    char text[64];
    u32 at = 0;

    while (*name)
        text[at++] = *name++;
    for (int shift = 60; shift >= 0; shift -= 4)
        text[at++] = "0123456789abcdef"[value >> shift & 15];
    text[at++] = '\n';
    text[at] = 0;
    say(text);
}

static u64 fail(const char *what)
{
    say("uefi-vmx: FAILED: ");
    say(what);
    say("\n");
    return EFI_DEVICE_ERROR;
}

static u64 run(void)
{
    u64 error = vmx_enter();

    if (error)
        return fail("VMXON");
    error = vmx_prepare();
    if (error) {
        vmx_leave();
        return fail("the VMCS");
    }

    u64 seen = 0, answer = 0;
    for (int turn = 0; turn < 4; turn++) {
        struct vmx_exit exit = vmx_run();
        if (exit.failed) {
            say_number("  VM-instruction error ", vmx_read(VMCS_INSTRUCTION_ERROR));
            break;
        }
        say_number("  exit reason ", exit.reason);
        seen |= 1ull << (exit.reason & 63);
        if (exit.reason == EXIT_CPUID)
            vmx_guest.rax = 0x7475726b;
        if (exit.reason == EXIT_VMCALL) {
            answer = vmx_guest.rax;
            break;
        }
        vmx_skip();
    }
    vmx_leave();
    if (seen != (1ull << EXIT_CPUID | 1ull << EXIT_VMCALL))
        return fail("other exits than CPUID and VMCALL");
    if (answer != 0x7475726c)
        return fail("the guest did not get what it was given");
    say("uefi-vmx: a guest ran in VMX operation\n");
    return EFI_SUCCESS;
}

u64 EFI_API efi_main(void *image, struct efi_system_table *table)
{
    (void)image;
    screen = table->output;
    say("uefi-vmx: begins\n");
    if (!vmx_is_offered()) {
        say("uefi-vmx: this processor does not offer VMX\n");
        return EFI_UNSUPPORTED;
    }
    return run();
}
