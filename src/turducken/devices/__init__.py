"""The devices of the PC: plain deterministic objects without threads and without wall clock.

Time comes from a `Clock` that the machine advances; interrupts leave through lines; nothing that a
guest writes makes a device raise a Python exception.
"""
