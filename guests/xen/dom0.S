/* A domain 0 for Xen that says so and ends the run: a paravirtualized 64-bit kernel.
 *
 * Xen's public headers elfnote.h (how it is loaded), xen.h (hypercalls), physdev.h (ports).
 */

    .set XEN_ELFNOTE_ENTRY, 1
    .set XEN_ELFNOTE_VIRT_BASE, 3
    .set XEN_ELFNOTE_PADDR_OFFSET, 4
    .set XEN_ELFNOTE_XEN_VERSION, 5
    .set XEN_ELFNOTE_GUEST_OS, 6
    .set XEN_ELFNOTE_LOADER, 8

    .set HYPERVISOR_console_io, 18
    .set HYPERVISOR_physdev_op, 33
    .set CONSOLEIO_write, 0
    .set PHYSDEVOP_set_iopl, 6
    .set DEBUG_EXIT, 0xf4

    .macro note_text kind, text
    .align 4
    .long 4, 2f - 1f, \kind
    .asciz "Xen"
1:  .asciz "\text"
2:  .align 4
    .endm

    .macro note_word kind, value
    .align 4
    .long 4, 8, \kind
    .asciz "Xen"
    .quad \value
    .endm

    .section .note.Xen, "a", @note
    note_text XEN_ELFNOTE_GUEST_OS, "Turducken test"
    note_text XEN_ELFNOTE_LOADER, "generic"
    note_text XEN_ELFNOTE_XEN_VERSION, "xen-3.0"
    note_word XEN_ELFNOTE_VIRT_BASE, 0
    note_word XEN_ELFNOTE_PADDR_OFFSET, 0
    note_word XEN_ELFNOTE_ENTRY, entry

    .text
    .code64
    .globl entry
entry:
    movl $HYPERVISOR_console_io, %eax
    movl $CONSOLEIO_write, %edi
    movl $greeting_end - greeting, %esi
    movl $greeting, %edx
    syscall
    movl $HYPERVISOR_physdev_op, %eax
    movl $PHYSDEVOP_set_iopl, %edi
    movl $privilege, %esi
    syscall
    xorl %eax, %eax
    outl %eax, $DEBUG_EXIT
1:  jmp 1b

    .section .rodata, "a"
greeting:
    .ascii "dom0: a kernel of ours runs on Xen\n"
greeting_end:
    .align 4
privilege:
    .long 1                     /* ports for the kernel of domain 0, which is in ring 3 */
