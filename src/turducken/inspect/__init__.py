"""Tools for page tables wherever they are: memory dumps, debuggers' targets, running machines."""
