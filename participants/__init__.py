"""Reference services that take part in the saga: balances, and assets with their prices. Replace them by your own."""
