"""The order service: claims, cancels, reads and lists orders, and publishes what it accepted."""
