"""Turducken: a guest in a guest hypervisor in a hypervisor, on an emulated VMX machine."""
