"""Webhooks by REST: a user's endpoints, and what was sent to each. Nothing is sent from here."""
