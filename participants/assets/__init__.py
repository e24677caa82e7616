"""The asset service: which assets are traded, by which rules, and at which price."""
