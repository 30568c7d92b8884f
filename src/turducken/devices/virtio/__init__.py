"""Virtio devices on PCI, as the Virtual I/O Device specification, version 1.2, has them."""
