"""Debug control: SDM 3B, "Debug Registers", "IA32_DEBUGCTL MSR"."""

from turducken.bits import Layout, bit, reserved

DEBUGCTL = Layout(
    "IA32_DEBUGCTL",
    64,
    bit("LBR", 0, "last branch recording"),
    bit("BTF", 1, "single-step on branches"),
    reserved(5, 2),
    bit("TR", 6, "trace messages"),
    bit("BTS", 7, "branch trace store"),
    bit("BTINT", 8, "branch trace interrupt"),
    bit("BTS_OFF_OS", 9),
    bit("BTS_OFF_USR", 10),
    bit("FREEZE_LBRS", 11, "freeze LBRs on a performance-monitoring interrupt"),
    bit("FREEZE_PERFMON", 12, "freeze counters on a performance-monitoring interrupt"),
    bit("UNCORE_PMI", 13, "enable uncore performance-monitoring interrupts"),
    bit("FREEZE_SMM", 14, "freeze while in SMM"),
    bit("RTM", 15, "debugging of RTM transactional regions, with DR7.RTM"),
    reserved(63, 16),
    source='SDM 3B, "IA32_DEBUGCTL MSR"',
)
DEBUGCTL_BTF = DEBUGCTL.mask("BTF")
