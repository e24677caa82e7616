"""The orchestrator: a pure `core` decides, and a `worker` process makes each decision durable and publishes it."""
