"""The orchestrator: a pure core that decides, and a thin shell that makes each decision durable and heard."""
