"""Cancels all of a user's open orders: asked for by a call, or by a timer that nobody renewed in time."""
