"""Scenarios of the trigger engine: what a tick costs beside many resting orders, and a tick that fires very many."""
