"""What Intel VMX is: the VMCS, its controls and exits, its instructions' rules, the entry checks.

Nothing here knows of an emulator or of a hypervisor. The machine's processor takes its hardware
behaviour from this package, and the hypervisor emulates VMX for its guest hypervisor with the same.
"""
