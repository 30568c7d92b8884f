"""Disks and CDs: ATA and ATAPI drives, and the IDE and AHCI controllers that they hang on."""
