"""What a Linux guest is given besides its kernel: initial RAM disks made of a user's files."""

from turducken.system.linux.userland import (
    KernelModule,
    Userland,
    read_initrd,
    read_kernel_module,
    shipped_program,
)

__all__ = ["KernelModule", "Userland", "read_initrd", "read_kernel_module", "shipped_program"]
