"""Control registers, RFLAGS and EFER: SDM 3A, "Control Registers"; SDM 1, "EFLAGS Register"."""

from turducken.bits import Layout, bit, bits, ignored, reserved

CR0 = Layout(
    "CR0",
    64,
    bit("PE", 0, "protection enable"),
    bit("MP", 1, "monitor coprocessor"),
    bit("EM", 2, "emulation"),
    bit("TS", 3, "task switched"),
    bit("ET", 4, "extension type"),
    bit("NE", 5, "numeric error"),
    ignored(15, 6),
    bit("WP", 16, "write protect"),
    ignored(17),
    bit("AM", 18, "alignment mask"),
    ignored(28, 19),
    bit("NW", 29, "not write-through"),
    bit("CD", 30, "cache disable"),
    bit("PG", 31, "paging"),
    reserved(63, 32),
    source='SDM 3A, "Control Registers"',
)

CR3 = Layout(
    "CR3",
    64,
    bits("PCID", 11, 0, "process-context identifier (CR4.PCIDE = 1)"),
    bit("PWT", 3, "page-level write-through (CR4.PCIDE = 0)", alias=True),
    bit("PCD", 4, "page-level cache disable (CR4.PCIDE = 0)", alias=True),
    bits("ADDRESS", 51, 12, "physical address of the top table (4-level, 5-level)"),
    bits("PAE_ADDRESS", 31, 5, "physical address of the four PDPTEs (PAE)", alias=True),
    reserved(62, 52),
    bit("KEEP", 63, "in a MOV to CR3 with CR4.PCIDE = 1: do not invalidate"),
    source='SDM 3A, "Control Registers"',
)

CR4 = Layout(
    "CR4",
    64,
    bit("VME", 0, "virtual-8086 mode extensions"),
    bit("PVI", 1, "protected-mode virtual interrupts"),
    bit("TSD", 2, "time stamp disable"),
    bit("DE", 3, "debugging extensions"),
    bit("PSE", 4, "page size extensions"),
    bit("PAE", 5, "physical address extension"),
    bit("MCE", 6, "machine-check enable"),
    bit("PGE", 7, "page global enable"),
    bit("PCE", 8, "performance-monitoring counter enable"),
    bit("OSFXSR", 9, "FXSAVE and FXRSTOR"),
    bit("OSXMMEXCPT", 10, "unmasked SIMD floating-point exceptions"),
    bit("UMIP", 11, "user-mode instruction prevention"),
    bit("LA57", 12, "57-bit linear addresses"),
    bit("VMXE", 13, "VMX enable"),
    bit("SMXE", 14, "SMX enable"),
    reserved(15),
    bit("FSGSBASE", 16, "RDFSBASE and its kin"),
    bit("PCIDE", 17, "process-context identifiers"),
    bit("OSXSAVE", 18, "XSAVE and XGETBV"),
    reserved(19),
    bit("SMEP", 20, "supervisor-mode execution prevention"),
    bit("SMAP", 21, "supervisor-mode access prevention"),
    bit("PKE", 22, "protection keys for user pages"),
    reserved(63, 23),
    source='SDM 3A, "Control Registers"',
)

EFER = Layout(
    "IA32_EFER",
    64,
    bit("SCE", 0, "SYSCALL enable"),
    reserved(7, 1),
    bit("LME", 8, "IA-32e mode enable"),
    reserved(9),
    bit("LMA", 10, "IA-32e mode active"),
    bit("NXE", 11, "execute-disable enable"),
    reserved(63, 12),
    source='SDM 3A, "Extended Feature Enable Register"',
)

RFLAGS = Layout(
    "RFLAGS",
    64,
    bit("CF", 0, "carry"),
    bit("ONE", 1, "always 1"),
    bit("PF", 2, "parity"),
    reserved(3),
    bit("AF", 4, "auxiliary carry"),
    reserved(5),
    bit("ZF", 6, "zero"),
    bit("SF", 7, "sign"),
    bit("TF", 8, "trap"),
    bit("IF", 9, "interrupt enable"),
    bit("DF", 10, "direction"),
    bit("OF", 11, "overflow"),
    bits("IOPL", 13, 12, "I/O privilege level"),
    bit("NT", 14, "nested task"),
    reserved(15),
    bit("RF", 16, "resume"),
    bit("VM", 17, "virtual-8086 mode"),
    bit("AC", 18, "alignment check / access control"),
    bit("VIF", 19, "virtual interrupt flag"),
    bit("VIP", 20, "virtual interrupt pending"),
    bit("ID", 21, "identification"),
    reserved(63, 22),
    source='SDM 1, "EFLAGS Register"',
)

GPR_NAMES = (
    *("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"),
    *(f"R{number}" for number in range(8, 16)),
)
"""General-purpose registers in the order of their encoding."""
