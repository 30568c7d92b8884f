"""What a Linux guest is given besides its kernel: initial RAM disks made of a user's files."""

from turducken.system.linux.debian import DebianKernel, find_kernel
from turducken.system.linux.kernel_module import (
    KernelModule,
    find_module,
    leave_out_calls,
    read_kernel_module,
)
from turducken.system.linux.userland import Userland, read_initrd, shipped_program

__all__ = [
    "DebianKernel",
    "KernelModule",
    "Userland",
    "find_kernel",
    "find_module",
    "leave_out_calls",
    "read_initrd",
    "read_kernel_module",
    "shipped_program",
]
