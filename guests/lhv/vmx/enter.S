/*
 * Into a guest and back.
 *
 * HOST_RSP points to the end of the guest's register record (struct registers), so that after a VM
 * exit a series of pushes fills the record, and before an entry a series of pops empties it.
 */
        .text
        .global vm_enter, vm_exited, l2_done

#ifdef __x86_64__
#define L1_STACK (15 * 8)

/* int vm_enter(struct registers *regs, bool launched): 0 VM exit, 1 failed with CF, 2 with ZF */
vm_enter:
        push %rbx
        push %rbp
        push %r12
        push %r13
        push %r14
        push %r15
        mov %rsp, L1_STACK(%rdi)
        mov %rdi, %rsp
        test %sil, %sil                 /* the pops leave the flags alone */
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %r11
        pop %r10
        pop %r9
        pop %r8
        pop %rdi
        pop %rsi
        pop %rbp
        pop %rbx
        pop %rdx
        pop %rcx
        pop %rax
        jnz 1f
        vmlaunch
        jmp 2f
1:      vmresume
2:      mov (%rsp), %rsp                /* still here: the entry failed */
        mov $1, %eax
        jc 3f
        mov $2, %eax
        jmp 3f

vm_exited:
        push %rax
        push %rcx
        push %rdx
        push %rbx
        push %rbp
        push %rsi
        push %rdi
        push %r8
        push %r9
        push %r10
        push %r11
        push %r12
        push %r13
        push %r14
        push %r15
        mov L1_STACK(%rsp), %rsp
        xor %eax, %eax
3:      pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbp
        pop %rbx
        ret

#else
#define L1_STACK (7 * 4)

vm_enter:
        mov 4(%esp), %eax
        mov 8(%esp), %ecx
        push %ebx
        push %ebp
        push %esi
        push %edi
        mov %esp, L1_STACK(%eax)
        mov %eax, %esp
        test %cl, %cl                   /* the pops leave the flags alone */
        pop %edi
        pop %esi
        pop %ebp
        pop %ebx
        pop %edx
        pop %ecx
        pop %eax
        jnz 1f
        vmlaunch
        jmp 2f
1:      vmresume
2:      mov (%esp), %esp                /* still here: the entry failed */
        mov $1, %eax
        jc 3f
        mov $2, %eax
        jmp 3f

vm_exited:
        push %eax
        push %ecx
        push %edx
        push %ebx
        push %ebp
        push %esi
        push %edi
        mov L1_STACK(%esp), %esp
        xor %eax, %eax
3:      pop %edi
        pop %esi
        pop %ebp
        pop %ebx
        ret
#endif

/* Where L2's code returns to */
l2_done:
        mov $0xd07e, %eax
        vmcall
        jmp l2_done

        .section .note.GNU-stack, "", @progbits
