"""A guest on this machine: an initramfs to boot and QEMU to boot it in."""
