"""What XSETBV takes: SDM 2D, "XSETBV - Set Extended Control Register"."""

import pytest

from turducken.arch import xcr0


@pytest.mark.parametrize(
    ("number", "value", "supported", "accepted"),
    [
        (0, 1, 3, True),
        (0, 3, 3, True),
        (0, 2, 3, False),
        (0, 0, 3, False),
        (0, 7, 3, False),
        (0, 7, 7, True),
        (0, 5, 7, False),
        (0, 1 << 62 | 1, 3, False),
        (1, 1, 3, False),
        (1 << 32, 1, 3, True),
    ],
)
def test_what_is_accepted(number: int, value: int, supported: int, accepted: bool) -> None:
    assert xcr0.is_accepted(number, value, supported) is accepted


def test_the_operand_is_edx_and_eax() -> None:
    assert xcr0.operand(0xAAAA_0000_0000_0001, 0xBBBB_0000_0000_0003) == 1 << 32 | 3
