"""Finding tables, VMCSs and chains of them in memory, from structure alone: ``pt find``."""
