"""A gdb remote stub for the guests: breakpoints, steps, registers and memory at each level.

gdb manual, "Remote Protocol". `turducken.gdb.stub.server` is where it starts.
"""
