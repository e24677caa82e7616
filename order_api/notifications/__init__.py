"""How a person wants to be told of orders, and what was told."""
