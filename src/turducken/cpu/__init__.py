"""The processor: instruction engine, instruction semantics, event delivery, VMX transitions."""
