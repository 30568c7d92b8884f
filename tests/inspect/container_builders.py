"""Files of every container that pt reads, each made from the same memory."""

import bz2
import gzip
import lzma
import struct
import zlib

import cramjam
import numpy as np

PAGE = 4096
MEMORY = {
    0x0000: bytes(range(256)) * 16,
    0x1000: bytes(PAGE),
    0x2000: b"pages of memory " * 256,
    0x5000: np.random.default_rng(5).bytes(PAGE),
    0x1_0000_0000: b"above four GiB! " * 256,
}
"""Pages by their address; what is between is a hole."""


def kdump(method="zlib", *, version=6, cpu=None):
    """Return a compressed kdump file, as makedumpfile's IMPLEMENTATION describes it."""
    packers = {
        "zlib": (1, zlib.compress),
        "snappy": (4, lambda data: bytes(cramjam.snappy.compress_raw(data))),
        "zstd": (0x20, lambda data: bytes(cramjam.zstd.compress(data))),
        "none": (0, bytes),
        "lzo": (2, lambda data: data[:100]),
    }
    flag, pack = packers[method]
    frames = sorted(address // PAGE for address in MEMORY)
    most = frames[-1] + 1
    bitmap = bytearray(-(-most // 8 // PAGE) * PAGE or PAGE)
    for one in frames:
        bitmap[one >> 3] |= 1 << (one & 7)
    blocks = 2 * len(bitmap) // PAGE
    header = bytearray(PAGE)
    header[:8] = b"KDUMP   "
    struct.pack_into("<I", header, 8, version)
    struct.pack_into("<10I", header, 424, 0, PAGE, 1, blocks, min(most, 1 << 31), 0, 0, 0, 0, 1)
    note = cpu or b""
    sub = bytearray(PAGE)
    struct.pack_into("<QQ", sub, 48, PAGE + 512, len(note))
    struct.pack_into("<Q", sub, 96, most)
    sub[512 : 512 + len(note)] = note
    data_at = PAGE * (2 + blocks) + 24 * len(frames)
    rows, data = b"", b""
    for one in frames:
        packed = pack(MEMORY[one * PAGE])
        is_packed = method != "none" and len(packed) < PAGE
        body = packed if is_packed else MEMORY[one * PAGE]
        rows += struct.pack("<QIIQ", data_at + len(data), len(body), flag * is_packed, 0)
        data += body
    return bytes(header) + bytes(sub) + bytes(bitmap) * 2 + rows + data


def flattened(data):
    """Return a file as makedumpfile flattens it, its pieces out of order."""
    head = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(PAGE, b"\0")
    pieces = [(at, data[at : at + 5000]) for at in range(0, len(data), 5000)]
    records = b"".join(struct.pack(">qq", at, len(one)) + one for at, one in reversed(pieces))
    return head + records + struct.pack(">qq", -1, -1)


def avml():
    """Return an AVML dump, version 2."""
    out = b""
    for address, page in MEMORY.items():
        frames = bytes(cramjam.snappy.compress(page))
        out += struct.pack("<IIQQQ", 0x4C4D5641, 2, address, address + PAGE - 1, 0)
        out += frames + struct.pack("<Q", len(frames))
    return out


def lime():
    """Return a LiME dump."""
    return b"".join(
        struct.pack("<IIQQQ", 0x4C694D45, 1, address, address + PAGE - 1, 0) + page
        for address, page in MEMORY.items()
    )


def xen(kind=".xen_pfn"):
    """Return what Xen's dump-core writes: sections, no segments."""
    frames = [address // PAGE for address in MEMORY] + [0xFFFF_FFFF]
    if kind == ".xen_p2m":
        table = b"".join(struct.pack("<QQ", one, one + 7) for one in frames)
    else:
        table = b"".join(struct.pack("<Q", one) for one in frames)
    pages = b"".join(MEMORY.values()) + bytes(PAGE)
    names = b"\0.shstrtab\0.xen_pages\0" + kind.encode() + b"\0"
    at = 64
    body, rows = b"", [(0, 0, 0)]
    for name, data in ((b".shstrtab", names), (b".xen_pages", pages), (kind.encode(), table)):
        rows.append((names.index(name + b"\0"), at + len(body), len(data)))
        body += data
    sections = b"".join(
        struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 8, 0)
        for name, offset, size in rows
    )
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, at + len(body), 0, 64, 0, 0, 64, len(rows), 1
    )
    return head + body + sections


def elf_note(name, body):
    """Return a note of an ELF core."""
    padded = name.ljust(-(-len(name) // 4) * 4, b"\0")
    return struct.pack("<III", len(name), len(body), 1) + padded + body + b"\0" * (-len(body) % 4)


def qemu_cpu(*, cr0=0x8000_0001, cr3=0x7000, cr4=0x20, long_mode=True):
    """Return the note that QEMU writes for a processor."""
    segment = struct.pack("<IIIIQ", 8, 0xFFFFF, (1 << 21) * long_mode, 0, 0)
    body = struct.pack("<II", 1, 0) + bytes(18 * 8) + segment * 10
    return elf_note(b"QEMU\0", body + struct.pack("<6Q", cr0, 0, 0, cr3, cr4, 0))


def virtualbox_cpu(*, cr0=0x8000_0001, cr3=0x9000, cr4=0x20, efer=0x500):
    """Return the note that VirtualBox writes for a processor."""
    body = bytes(18 * 8 + 6 * 24) + struct.pack("<4Q", cr0, 0, cr3, cr4)
    body += bytes(8 * 8 + 2 * 16 + 2 * 24 + 3 * 8) + struct.pack("<Q", efer) + bytes(200)
    return elf_note(b"VBCPU\0", body)


def core(note=b""):
    """Return an ELF core with a segment for each page."""
    count = len(MEMORY) + 1
    at = 64 + count * 56
    rows = struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(note), len(note), 4)
    at += len(note)
    for number, address in enumerate(MEMORY):
        rows += struct.pack("<IIQQQQQQ", 1, 7, at + number * PAGE, 0, address, PAGE, PAGE, PAGE)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0)
    return head + rows + note + b"".join(MEMORY.values())


def vmware_tag(name, value, *indices):
    """Return a tag of a VMware state with a value of four bytes, or of any length."""
    head = bytes([len(indices) << 6, len(name)]) + name.encode()
    numbers = b"".join(struct.pack("<I", one) for one in indices)
    if isinstance(value, int):
        return bytes([head[0] | 8]) + head[1:] + numbers + struct.pack("<Q", value)
    large = struct.pack("<QQH", len(value), len(value), 3) + b"pad" + value
    return bytes([head[0] | 63]) + head[1:] + numbers + large


def vmware_state(*, inside=False, control=True):
    """Return a .vmss file: regions and control registers, and with ``inside`` the memory."""
    tags = vmware_tag("regionsCount", len(MEMORY))
    for number, address in enumerate(MEMORY):
        tags += vmware_tag("regionPPN", address // PAGE, number)
        tags += vmware_tag("regionPageNum", number, number)
        tags += vmware_tag("regionSize", 1, number)
    if inside:
        tags += vmware_tag("Memory", b"".join(MEMORY.values()), 0, 0)
    cpu = b""
    if control:
        for number, value in ((0, 0x8000_0001), (3, 0x3000), (4, 0x20)):
            cpu += vmware_tag("CR64", value, 0, number)
    at = 12 + 2 * 80
    head = struct.pack("<III", 0xBED2BED2, 8, 2)
    head += struct.pack("<64sQQ", b"cpu", at, 0)
    head += struct.pack("<64sQQ", b"memory", at + len(cpu) + 2, 0)
    return head + cpu + bytes(2) + tags + bytes(2)


def migration(machine=b"pc-i440fx-7.2", *, block=b"pc.ram", size=0x8000):
    """Return a stream as QEMU migrates a machine: some pages, one of them changed later on."""
    out = b"QEVM" + struct.pack(">I", 3)
    out += b"\x07" + struct.pack(">I", len(machine)) + machine
    out += b"\x01" + struct.pack(">IB", 2, 3) + b"ram" + struct.pack(">II", 0, 4)
    out += struct.pack(">Q", size | 4) + bytes([len(block)]) + block + struct.pack(">Q", size)
    out += struct.pack(">Q", 0x10) + b"\x7e" + struct.pack(">I", 2)
    out += b"\x02" + struct.pack(">I", 2)
    name = bytes([len(block)]) + block
    out += struct.pack(">Q", 0x1000 | 0x08) + name + b"old" * 1365 + b"!"
    for address, page in MEMORY.items():
        if address >= size:
            continue
        if any(page):
            out += struct.pack(">Q", address | 0x08 | 0x20) + page
        else:
            out += struct.pack(">Q", address | 0x02 | 0x20) + b"\0"
    out += struct.pack(">Q", 0x10) + b"\x7e" + struct.pack(">I", 2)
    out += b"\x03" + struct.pack(">I", 2) + struct.pack(">Q", 0x10) + b"\x7e" + struct.pack(">I", 2)
    return out + b"\x04" + struct.pack(">IB", 7, 5) + b"timer" + bytes(300)


def libvirt(stream, *, packed=0):
    """Return a stream as libvirt saves it."""
    xml = b"<domain type='kvm'/>\0"
    return struct.pack("<16sIIII", b"LibvirtQemudSave", 2, len(xml), 1, packed).ljust(92, b"\0") + (
        xml + stream
    )


PACKERS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": lambda data: bytes(cramjam.zstd.compress(data)),
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
    "snappy": lambda data: bytes(cramjam.snappy.compress(data)),
}

LOW = {address: page for address, page in MEMORY.items() if address < 1 << 32}
CONTAINERS = {
    "kdump-zlib": kdump,
    "kdump-snappy": lambda: kdump("snappy"),
    "kdump-zstd": lambda: kdump("zstd"),
    "kdump-none": lambda: kdump("none"),
    "kdump-flattened": lambda: flattened(kdump()),
    "avml": avml,
    "lime": lime,
    "xen-pfn": xen,
    "xen-p2m": lambda: xen(".xen_p2m"),
    "elf": core,
    "vmss": lambda: vmware_state(inside=True),
}
