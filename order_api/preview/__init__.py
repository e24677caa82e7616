"""Previews: what would become of an order, worked out by the saga's own rules, in memory. See docs/adr/0043."""
