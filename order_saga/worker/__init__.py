"""The orchestrator as a process: a batch is a transaction around the core's decisions."""
