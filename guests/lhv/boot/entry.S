/*
 * Multiboot entry (Multiboot Specification 0.6.96): 32-bit protected mode, paging off, EAX = magic,
 * EBX = address of the information structure.  Sets up paging that maps the first 4 GiB to
 * themselves with large pages, goes to 64-bit mode on amd64, and calls lhv_main(magic, info).
 *
 * `mode_on` is shared with the other processors (boot/trampoline.S): it switches the processor that
 * calls it from unpaged 32-bit mode to lhv's own mode.
 */
#include "x86/asm.h"

#define CR0_PE 0x00000001
#define CR0_NE 0x00000020
#define CR0_WP 0x00010000
#define CR0_PG 0x80000000
#define CR4_PSE 0x10
#define CR4_PAE 0x20
#define CR4_OSFXSR 0x200
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100

#define PAGE_USER_RW 7                  /* present, writable, user */
#define PAGE_LARGE 0x80
#define PAGE_UNCACHED 0x10

#if defined(__x86_64__) || defined(LHV_PAE)
#define WIDE_ENTRIES 1                  /* 8-byte entries, large pages of 2 MiB */
#endif

        .section .multiboot, "a"
        .balign 4
multiboot_header:
        .set MAGIC, 0x1badb002
        .set FLAGS, 0x3                 /* page-aligned modules, memory information */
        .long MAGIC, FLAGS, -(MAGIC + FLAGS)

        .code32
        .section .text.entry, "ax"
        .global entry
entry:
        cli
        cld
        mov $boot_stack_top, %esp
        push $0
        popf
        mov %eax, %ebp                  /* kept over what follows */
        mov %ebx, %edi
        call build_page_tables
        mov $1f, %esi
        jmp mode_on
#ifdef __x86_64__
        .code64
1:      mov %edi, %esi
        mov %ebp, %edi
        xor %ebp, %ebp
        mov $boot_stack_top, %rsp
        call lhv_main
#else
1:      mov $boot_stack_top, %esp
        sub $8, %esp
        push %edi
        push %ebp
        xor %ebp, %ebp
        call lhv_main
#endif
2:      hlt
        jmp 2b

/* Paging structures that map 4 GiB to themselves.  Changes EAX, EBX, ECX, EDX. */
        .code32
build_page_tables:
#ifdef WIDE_ENTRIES
        mov $page_directories, %ebx
        mov $(PAGE_USER_RW | PAGE_LARGE), %eax
        xor %ecx, %ecx
1:      cmp $0xfee00000, %eax           /* from the APICs up: uncached */
        jb 2f
        or $PAGE_UNCACHED, %eax
2:      mov %eax, (%ebx, %ecx, 8)
        add $0x200000, %eax
        inc %ecx
        cmp $2048, %ecx
        jne 1b

        mov $page_directory_pointers, %ebx
        xor %ecx, %ecx
#ifdef __x86_64__
        mov $(page_directories + PAGE_USER_RW), %eax
#else
        mov $(page_directories + 1), %eax /* a PAE PDPTE has no R/W or U/S */
#endif
1:      mov %eax, (%ebx, %ecx, 8)
        add $0x1000, %eax
        inc %ecx
        cmp $4, %ecx
        jne 1b
#ifdef __x86_64__
        movl $(page_directory_pointers + PAGE_USER_RW), page_root
#endif
#else
        mov $page_root, %ebx
        mov $(PAGE_USER_RW | PAGE_LARGE), %eax
        xor %ecx, %ecx
1:      cmp $0xfec00000, %eax
        jb 2f
        or $PAGE_UNCACHED, %eax
2:      mov %eax, (%ebx, %ecx, 4)
        add $0x400000, %eax
        inc %ecx
        cmp $1024, %ecx
        jne 1b
#endif
        ret

/* Switch on paging and lhv's mode, then jump to ESI.  Changes EAX, ECX, EDX. */
        .global mode_on
mode_on:
#ifdef WIDE_ENTRIES
        mov $(CR4_PAE | CR4_OSFXSR), %eax
#else
        mov $(CR4_PSE | CR4_OSFXSR), %eax
#endif
        mov %eax, %cr4
#ifdef __x86_64__
        mov $page_root, %eax
        mov %eax, %cr3
        mov $MSR_EFER, %ecx
        rdmsr
        or $EFER_LME, %eax
        wrmsr
#elif defined(LHV_PAE)
        mov $page_directory_pointers, %eax
        mov %eax, %cr3
#else
        mov $page_root, %eax
        mov %eax, %cr3
#endif
        mov $(CR0_PE | CR0_NE | CR0_WP | CR0_PG), %eax
        mov %eax, %cr0
        lgdt boot_gdtr
        ljmp $SEL_CODE, $1f
#ifdef __x86_64__
        .code64
1:      mov $SEL_DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov %esi, %esi                  /* clear the upper half */
        jmp *%rsi
#else
1:      mov $SEL_DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        jmp *%esi
#endif

        .section .rodata
        .balign 8
        .global boot_gdt
boot_gdt:
        .quad 0
#ifdef __x86_64__
        .quad 0x00af9b000000ffff
#else
        .quad 0x00cf9b000000ffff
#endif
        .quad 0x00cf93000000ffff
        .global boot_gdtr
boot_gdtr:
        .word boot_gdtr - boot_gdt - 1
        .long boot_gdt
        .long 0

        .bss
        .balign 4096
        .global page_root, page_directory_pointers, page_directories
page_root:
        .skip 4096
#ifdef WIDE_ENTRIES
page_directory_pointers:
        .skip 4096
page_directories:
        .skip 4 * 4096
#endif
        .balign 16
        .skip 8192
boot_stack_top:

        .section .note.GNU-stack, "", @progbits
