"""What is recognised but cannot be read: refused by name, with what to do instead."""

_REFUSED: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PAGEDUMP", "a 32-bit Windows crash dump; convert it with volatility3's layerwriter"),
    (0, b"PAGEDU64", "a 64-bit Windows crash dump; convert it with volatility3's layerwriter"),
    *(
        (0, magic, "a Windows hibernation file; convert it with volatility3's layerwriter")
        for magic in (b"hibr", b"HIBR", b"wake", b"WAKE", b"RSTR")
    ),
    (0, b"HPAK", "an HPAK file (FDPro); extract its memory with volatility 2's hpakextract"),
    (0, b"\x7fVirtualBox SavedState", "a VirtualBox saved state; resume the machine and use "
     "VBoxManage debugvm VM dumpvmcore"),
    (0, b"\xcf\xfa\xed\xfe", "a 64-bit Mach-O file; convert its memory to raw or ELF first"),
    (0, b"\xce\xfa\xed\xfe", "a 32-bit Mach-O file; convert its memory to raw or ELF first"),
    (0, b"\xfe\xed\xfa\xcf", "a Mach-O file; convert its memory to raw or ELF first"),
    (0, b"\xfe\xed\xfa\xce", "a Mach-O file; convert its memory to raw or ELF first"),
    (0, b"\xca\xfe\xba\xbe", "a Mach-O fat file, which holds no memory"),
    (0, b"\x01\x00\x00\x00\x00\x00\x00\x00HyperV", "a Hyper-V runtime state; use vm2dmp"),
    (0, b"VmSavedState", "a Hyper-V saved state; convert it with vm2dmp"),
    (0, b"VMBN", "a Hyper-V saved state (.bin and .vsv); convert it with vm2dmp"),
    (0, b"QFI\xfb", "a qcow2 disk image, not memory (qemu-img convert makes it a raw disk)"),
    (0, b"KDMV", "a VMware disk image (VMDK), not memory; memory is in the .vmem or .vmss"),
    (0, b"COWD", "a VMware disk image (VMDK), not memory; memory is in the .vmem or .vmss"),
    (0, b"# Disk DescriptorFile", "the descriptor of a VMware disk, not memory"),
    (0, b"vhdxfile", "a Hyper-V disk image (VHDX), not memory"),
    (0, b"conectix", "a Hyper-V disk image (VHD), not memory"),
    (0x40, b"\x7f\x10\xda\xbe", "a VirtualBox disk image (VDI), not memory"),
    (0, b"EVF\x09\r\n\xff", "an EnCase image; export it as raw with ewfexport"),
    (0, b"AFF", "an AFF image; convert it to raw with affconvert"),
    (0, b"PK\x03\x04", "a ZIP archive (or AFF4 image); unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (0, b"Rar!", "a RAR archive; unpack it first"),
    (0x101, b"ustar", "a tar archive; unpack it first"),
    (0, b"\x89LZO", "an lzop file; unpack it with lzop -d"),
    (0, b"Xpress", "a Windows compressed file; expand it first"),
    (0, b"\x89PNG", "a picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"SQLite format 3", "an SQLite database"),
)  # fmt: skip


_TEXT = 64
"""So many printable characters at a file's beginning, and nothing else, are a text."""


def name_of_refused(head: bytes) -> str | None:
    """Return what the file that begins with ``head`` is, and what to do; None where unknown."""
    for offset, magic, what in _REFUSED:
        if head[offset : offset + len(magic)] == magic:
            return what
    if len(head) >= _TEXT and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "a text file"
    return None
