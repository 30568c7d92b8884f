"""The layer in the real Volatility 3."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("volatility3", reason="needs the extra turducken[volatility]")

from volatility3.framework import contexts, exceptions
from volatility3.framework.automagic import stacker
from volatility3.framework.layers import elf, lime, physical

from turducken.inspect.containers import open_file
from turducken.inspect.export import export
from turducken.inspect.opening import Reading
from turducken.inspect.through import ChainMap
from turducken.inspect.volatility import PLUGIN_DIRECTORY, VIA_VARIABLE
from turducken.inspect.volatility.layer import EptLayer, EptStacker

GREETING = b"L2 greets from page 1234000\n"
CHAIN = "ept12={ept12:#x},ept01={ept01:#x}"


def dump_layers(path, file_format):
    """Return a context with the dump's file layer and its physical layer."""
    context = contexts.Context()
    context.config["file.location"] = Path(path).resolve().as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["dump.base_layer"] = "file"
    context.add_layer(file_format(context, "dump", "dump"))
    return context


@pytest.fixture
def dump(samples, tmp_path):
    """Return the whole sample as a LiME dump: (path, chain)."""
    source = open_file(str(samples / "nested.core"))
    path = tmp_path / "machine.lime"
    from turducken.inspect.writers import Extent, write_lime

    with open(path, "wb") as stream:
        write_lime(stream, source, [Extent(one.base, one.size, one.base) for one in source.regions])
    return path, CHAIN.format(**{name: source.roots[name] for name in ("ept12", "ept01")})


@pytest.fixture
def stacked(dump):
    path, via = dump
    context = dump_layers(path, lime.LimeLayer)
    context.config["guest.base_layer"] = "dump"
    context.config["guest.via"] = via
    context.add_layer(EptLayer(context, "guest", "guest"))
    return context.layers["guest"]


def test_the_inner_guests_memory_is_read_through_its_tables(stacked):
    assert stacked.read(0x2234000, len(GREETING)) == GREETING
    assert stacked.translate(0x2234010) == (0x2234010, "dump")
    assert stacked.translate(0x10_0000) == (0x210_0000, "dump")
    assert stacked.maximum_address == 0x2234FFF
    assert stacked.dependencies == ["dump"]


def test_what_is_not_mapped_is_an_invalid_address(stacked):
    with pytest.raises(exceptions.InvalidAddressException):
        stacked.read(0x500_0000, 4)
    with pytest.raises(exceptions.InvalidAddressException):
        stacked.read(0x2234FFE, 4)
    assert stacked.read(0x2234FFE, 4, pad=True) == bytes(4)
    assert stacked.is_valid(0x2234000, 16)
    assert not stacked.is_valid(0x2234FFE, 4)
    assert not stacked.is_valid(0x40_0000)  # mapped, but not in the dump


def test_mapping_covers_what_it_promises(stacked):
    pieces = list(stacked.mapping(0, 0x300_0000, ignore_errors=True))
    assert [piece[0] for piece in pieces] == sorted(piece[0] for piece in pieces)
    assert sum(piece[1] for piece in pieces) == 0x41_1000


def test_the_layer_reads_what_export_writes(stacked, samples, tmp_path):
    source = open_file(str(samples / "nested.core"))
    ranges = ChainMap(source, Reading().chain("ept12,ept01", source)).composed().ranges
    path = tmp_path / "inner.core"
    with open(path, "wb") as stream:
        export(source, ranges, "elf", stream)
    inner = dump_layers(path, elf.Elf64Layer).layers["dump"]
    for address in (0x10_0000, 0x10_3000, 0x2234000):
        assert inner.read(address, 4096) == stacked.read(address, 4096)


def test_the_stacker_puts_it_on_top(dump, monkeypatch):
    path, via = dump
    monkeypatch.setenv(VIA_VARIABLE, via)
    context = contexts.Context()
    context.config["file.location"] = Path(path).resolve().as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    names = stacker.LayerStacker.stack_layer(context, "file", [lime.LimeStacker, EptStacker])
    assert isinstance(context.layers[names[0]], EptLayer)
    assert context.layers[names[0]].read(0x2234000, 8) == GREETING[:8]
    monkeypatch.delenv(VIA_VARIABLE)
    assert EptStacker.stack(context, "file") is None


def test_the_command_of_volatility_uses_the_layer(dump, tmp_path):
    program = Path(sys.executable).with_name("vol")
    if not program.exists():
        program = Path(shutil.which("vol") or "")
    if not program.is_file():
        pytest.skip("needs the vol command")
    path, via = dump
    done = subprocess.run(
        [program, "-q", "-p", PLUGIN_DIRECTORY, "-f", path, "layerwriter.LayerWriter", "--list"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), VIA_VARIABLE: via},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "EptLayer" in done.stdout, done.stdout + done.stderr
