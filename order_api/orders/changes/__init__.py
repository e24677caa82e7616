"""Changes of orders that rest: amends of their terms, holds and releases."""
