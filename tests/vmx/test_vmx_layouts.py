import pytest

from turducken.bits import Layout
from turducken.vmx import exit_information as i
from turducken.vmx.controls import CONTROL_SETS, DEPENDENCIES, PRIMARY, Primary, control_bit
from turducken.vmx.exit_fields import EXIT_FIELDS, qualification_layout
from turducken.vmx.exit_reasons import ExitReason, name_of
from turducken.vmx.instruction_errors import MEANINGS, InstructionError


@pytest.mark.parametrize("word", CONTROL_SETS.values(), ids=lambda one: one.key)
def test_control_words_are_consistent(word):
    assert all(mask.bit_count() == 1 for mask in word.masks.values())
    assert word.named.bit_count() == len(word.masks)
    for name, mask in word.masks.items():
        assert word.layout.mask(name) == mask
        assert word.names(mask) == [name]
    assert not word.reserved1 & word.named
    assert word.reserved1 | word.default1 & word.named == word.default1


def test_default1_classes_of_the_manual():
    values = {key: word.default1 for key, word in CONTROL_SETS.items() if word.default1}
    assert values == {
        "pin": 0x16,
        "primary": 0x0401_E172,
        "exit": 0x0003_6DFF,
        "entry": 0x0000_11FF,
    }
    assert PRIMARY.default1 & PRIMARY.named == (
        Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING
    )


def test_dependencies_name_controls():
    for pair in DEPENDENCIES:
        for one in pair:
            word, mask = control_bit(one)
            assert CONTROL_SETS[word].named & mask


def test_every_exit_reason_has_its_information():
    assert set(EXIT_FIELDS) == set(ExitReason)
    for reason in ExitReason:
        assert name_of(reason)
    assert name_of(0x8000_0021) == "VM-entry failure: invalid guest state"
    assert name_of(35) == "exit reason 35"


def test_qualification_layouts():
    assert qualification_layout(48) is i.EPT_QUALIFICATION
    assert qualification_layout(0, vector=14) is i.LINEAR_ADDRESS_QUALIFICATION
    assert qualification_layout(0, vector=1) is i.DEBUG_QUALIFICATION
    assert qualification_layout(0, vector=13) is None
    assert qualification_layout(10) is None
    assert qualification_layout(35) is None


def test_instruction_errors():
    assert set(InstructionError) == set(MEANINGS)
    assert {int(one) for one in InstructionError} == set(range(1, 29)) - {14, 21, 27}
    assert InstructionError(7).meaning == "VM entry with invalid control field(s)"


def test_interruption_words():
    word = i.interruption(14, i.EventType.HARDWARE_EXCEPTION, has_error_code=True)
    assert word == 0x8000_0B0E
    assert i.EXIT_INTERRUPTION.decode(word)["TYPE"] == 3
    assert i.interruption(2, i.EventType.NMI) == 0x8000_0202


def test_layouts_are_layouts_of_the_fields_widths():
    layouts = [one for one in vars(i).values() if isinstance(one, Layout)]
    assert len(layouts) > 20
    assert {one.width for one in layouts} == {32, 64}
