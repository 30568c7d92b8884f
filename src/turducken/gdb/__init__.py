"""What gdb needs to look into a turducken machine: the stub, and an extension for gdb itself."""
