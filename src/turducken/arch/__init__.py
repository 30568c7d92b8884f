"""Intel 64 architecture: registers, MSRs, exceptions, descriptors - names and layouts only."""
