# Boots, and lets the host read what the kernel printed.
