"""Address translation as a processor does it: the TLB model and the two-dimensional walk."""
