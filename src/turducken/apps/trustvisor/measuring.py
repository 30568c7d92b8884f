"""Measuring PALs, and their software PCRs.

A PCR of a PAL begins as zeros, is extended by the PAL's measurement when it is registered, and by
the PAL itself from then on: ``PCR = SHA-256(PCR || digest)``, as a TPM does.
"""

import hashlib

from turducken.apps.trustvisor import abi
from turducken.apps.trustvisor.abi import SectionKind
from turducken.apps.trustvisor.pal import Pal
from turducken.memory import PhysicalMemory

_MEASURED = (SectionKind.CODE, SectionKind.SHARED_CODE, SectionKind.DATA)


def measure(memory: PhysicalMemory, pal: Pal) -> bytes:
    """Return the SHA-256 of what the PAL is: mode, entry, parameters, sections, and content.

    Sections of parameters and the stack count by their place and size: they begin as zeros.
    """
    descriptor = pal.descriptor
    digest = hashlib.sha256()
    head = len(descriptor.sections), descriptor.entry, len(descriptor.parameters), int(pal.is_64bit)
    digest.update(abi.DESCRIPTOR_HEAD.pack(abi.VERSION, *head))
    for parameter in descriptor.parameters:
        digest.update(abi.PARAMETER.pack(parameter.kind, parameter.size))
    for section in descriptor.sections:
        digest.update(abi.SECTION.pack(section.kind, section.pages, section.address))
    for page in pal.pages:
        if page.kind in _MEASURED:
            digest.update(memory.read(page.hpa, 4096))
    return digest.digest()


def extend(pcr: bytes, digest: bytes) -> bytes:
    """Return the PCR extended by a digest."""
    return hashlib.sha256(pcr + digest).digest()
