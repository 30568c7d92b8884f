/* Where the kernel enters a program: the argument count is on the stack, the arguments follow. */
    .section .text.start, "ax"
    .globl _start
_start:
#ifdef __x86_64__
    xorl %ebp, %ebp
    movq %rsp, %rdi
    andq $-16, %rsp
    call start
#else
    xorl %ebp, %ebp
    movl %esp, %eax
    andl $-16, %esp
    subl $12, %esp
    pushl %eax
    call start
#endif
    hlt
