"""pal-demo under TrustVisor, with TrustVisor in reach."""

from collections.abc import Callable
from dataclasses import dataclass, field

from turducken.apps import AppRequest
from turducken.apps.trustvisor.app import Sharing, TrustVisor, TrustVisorOptions
from turducken.hypervisor import ShadowPolicyName
from turducken.system import Mode, Result, Stops, System, SystemOptions, find_image

LIMIT = Stops(max_instructions=1_000_000_000)
SHARINGS = tuple(Sharing)
IMAGES = ("pal-demo-amd64", "pal-demo-i386-pae")


@dataclass
class Demo:
    tests: str
    image: str = IMAGES[0]
    cpus: int = 2
    sharing: Sharing = Sharing.ONE
    shootdown: bool = True
    shadow: ShadowPolicyName = "cached"
    tlb: str = "keep"
    seed: int = 0
    app: TrustVisor = field(init=False)
    system: System = field(init=False)

    def __post_init__(self) -> None:
        self.app = TrustVisor(TrustVisorOptions(self.sharing, self.shootdown))
        self.system = System(
            SystemOptions(
                find_image(self.image),
                mode=Mode.NESTED,
                cpus=self.cpus,
                text=f"tests={self.tests}",
                shadow=self.shadow,
                tlb=self.tlb,
                seed=self.seed,
                memory=64 << 20,
                apps=[AppRequest("trustvisor", lambda: self.app)],
            )
        )

    def run(self, on_turn: Callable[[], None] | None = None) -> Result:
        return self.system.run(LIMIT, on_turn)


def assert_passed(result: Result) -> None:
    """Every test passed, and none was skipped for want of TrustVisor."""
    assert result.exit_status == 0, result.console
    assert "no TrustVisor" not in result.console
    assert "tests passed" in result.console
