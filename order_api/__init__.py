"""The REST API: it validates requests, claims orders, publishes them, and reads through views. It decides no order."""
