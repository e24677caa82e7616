"""Live updates: who follows which orders and prices, and the streams that tell them."""
