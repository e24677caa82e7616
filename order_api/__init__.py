"""The front door: validate, claim the order, publish, and read through a view. It decides nothing about an order."""
