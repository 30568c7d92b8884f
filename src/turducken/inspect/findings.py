"""What checks report: findings, each under a rule with a severity and a source."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"
    """It does what its owner cannot want: a hole, a fault, an access too many."""
    WARNING = "warning"
    """It is usually a mistake."""
    NOTE = "note"
    """Worth knowing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that `turducken.inspect.check` applies."""

    name: str
    severity: Severity
    summary: str
    source: str


_EPT = 'SDM 3C, "EPT Translation Mechanism"'
_ACCESS = 'SDM 3A, "Access Rights"'

RULES = {
    one.name: one
    for one in (
        Rule(
            "eptp-invalid",
            Severity.ERROR,
            "VM entry refuses this EPTP",
            'SDM 3C, "Checks on VM-Execution Control Fields"',
        ),
        Rule(
            "eptp-uncached",
            Severity.WARNING,
            "the EPTP makes every access to an EPT entry uncached",
            'SDM 3C, "EPT and Memory Typing"',
        ),
        Rule(
            "misconfigured",
            Severity.ERROR,
            "an access here is an EPT misconfiguration",
            'SDM 3C, "EPT Misconfigurations"',
        ),
        Rule(
            "reserved-bits",
            Severity.ERROR,
            "an access here is a page fault for reserved bits",
            'SDM 3A, "Page-Fault Exceptions"',
        ),
        Rule(
            "table-missing",
            Severity.ERROR,
            "an entry references a table where there is no memory",
            'SDM 3A, "Hierarchical Paging Structures: an Overview"',
        ),
        Rule(
            "loop",
            Severity.WARNING,
            "a table is reachable from itself",
            'SDM 3A, "Hierarchical Paging Structures: an Overview"',
        ),
        Rule(
            "shared-subtree",
            Severity.NOTE,
            "a table is referenced by more than one entry",
            'SDM 3A, "Hierarchical Paging Structures: an Overview"',
        ),
        Rule(
            "tables-writable",
            Severity.ERROR,
            "whoever runs under this table can write the table itself",
            _EPT,
        ),
        Rule(
            "tables-readable",
            Severity.WARNING,
            "whoever runs under this table can read the table itself",
            _EPT,
        ),
        Rule(
            "hypervisor-memory",
            Severity.ERROR,
            "memory that was declared the hypervisor's own is mapped",
            _EPT,
        ),
        Rule(
            "uc-over-ram",
            Severity.WARNING,
            "RAM is mapped with memory type UC",
            'SDM 3C, "EPT and Memory Typing"; SDM 3A, "Memory Cache Control"',
        ),
        Rule(
            "type-against-mtrr",
            Severity.ERROR,
            "an EPT gives memory another type than the MTRRs do: devices cached, or RAM uncached",
            'SDM 3C, "EPT and Memory Typing"; SDM 3A, "Memory Type Range Registers (MTRRs)"',
        ),
        Rule(
            "large-page-types",
            Severity.WARNING,
            "a large page covers memory of more than one type by the MTRRs",
            'SDM 3A, "Large Page Size Considerations"',
        ),
        Rule(
            "maps-nothing",
            Severity.WARNING,
            "every access through this table is an EPT violation",
            _EPT,
        ),
        Rule(
            "type-doubtful",
            Severity.NOTE,
            "RAM is mapped with a memory type that is neither WB nor UC",
            'SDM 3A, "Memory Cache Control"',
        ),
        Rule(
            "cached-outside-ram",
            Severity.NOTE,
            "addresses where there is no RAM are mapped with a cached memory type",
            'SDM 3A, "Memory Cache Control"',
        ),
        Rule(
            "writable-executable",
            Severity.WARNING,
            "a page can be written and executed",
            _ACCESS,
        ),
        Rule(
            "alias-types",
            Severity.ERROR,
            "the same memory is mapped with different memory types",
            'SDM 3A, "Programming the PAT" and "Memory Cache Control"',
        ),
        Rule(
            "large-page-tail",
            Severity.WARNING,
            "a large page reaches beyond the memory it starts in",
            'SDM 3A, "Large Page Size Considerations"',
        ),
        Rule(
            "truncated",
            Severity.NOTE,
            "the table was too large to look at all of it",
            "a limit of this tool",
        ),
        Rule(
            "sub-page-writes",
            Severity.NOTE,
            "a sub-page table decides about writes to a page",
            'SDM 3C, "Sub-Page Write Permissions for EPT"',
        ),
        Rule(
            "hlat-restart",
            Severity.NOTE,
            "HLAT paging is given up for ordinary paging",
            'SDM 3A, "HLAT Paging"',
        ),
        Rule(
            "machine-differs",
            Severity.ERROR,
            "the table is not what the machine translates with",
            "the snapshot named by --against",
        ),
        Rule(
            "shadow-elsewhere",
            Severity.ERROR,
            "the shadow leads elsewhere than EPT01(EPT12(x))",
            "EPT02(x) = EPT01(EPT12(x))",
        ),
        Rule(
            "shadow-extra",
            Severity.ERROR,
            "the shadow maps what EPT01(EPT12(x)) does not",
            "EPT02(x) = EPT01(EPT12(x))",
        ),
        Rule(
            "shadow-allows-more",
            Severity.ERROR,
            "the shadow gives permissions that EPT12 and EPT01 do not both give",
            "EPT02(x) = EPT01(EPT12(x))",
        ),
        Rule(
            "shadow-type",
            Severity.WARNING,
            "the shadow's memory type is not that of EPT12 under EPT01",
            'SDM 3C, "EPT and Memory Typing"',
        ),
        Rule(
            "shadow-partial",
            Severity.NOTE,
            "the shadow does not (yet) map all that it may",
            "EPT02(x) = EPT01(EPT12(x))",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where a rule is broken.

    ``start`` and ``size`` are in the input space of the stage called ``stage`` (size 0: the
    finding is about a table or a register, not about a range); ``entry_address`` is where the
    entry lies, in the stage's output space.
    """

    rule: Rule
    severity: Severity
    stage: str
    message: str
    start: int | None = None
    size: int = 0
    entry_address: int | None = None


@dataclass
class Report:
    """Findings in the order of the checks; of each rule and stage at most ``limit`` are kept."""

    limit: int = 20

    def __post_init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts: dict[tuple[str, str], int] = {}

    def add(
        self,
        rule: str,
        stage: str,
        message: str,
        *,
        start: int | None = None,
        size: int = 0,
        entry_address: int | None = None,
        severity: Severity | None = None,
    ) -> None:
        """Record a finding (or only count it, once the limit is reached)."""
        self.counts[stage, rule] = self.counts.get((stage, rule), 0) + 1
        if self.counts[stage, rule] <= self.limit:
            kind = RULES[rule]
            self.findings.append(
                Finding(kind, severity or kind.severity, stage, message, start, size, entry_address)
            )

    def has_room(self, rule: str, stage: str) -> bool:
        """Tell whether another finding of this rule would be kept."""
        return self.counts.get((stage, rule), 0) < self.limit

    def count_more(self, rule: str, stage: str, number: int) -> None:
        """Count findings that are not worked out."""
        if number > 0:
            self.counts[stage, rule] = self.counts.get((stage, rule), 0) + number

    @property
    def omitted(self) -> dict[tuple[str, str], int]:
        """How many findings were counted but not kept, by stage and rule."""
        return {key: count - self.limit for key, count in self.counts.items() if count > self.limit}

    @property
    def has_errors(self) -> bool:
        """Tell whether any finding is an error."""
        return any(one.severity is Severity.ERROR for one in self.findings)
