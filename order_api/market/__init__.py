"""How the market and a user's accounts look: prices, assets with their rules, balances. It decides nothing."""
