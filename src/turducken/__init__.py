"""Turducken: a guest in a guest hypervisor in a hypervisor, on an emulated VMX machine."""

__version__ = "0.1.0"
