"""The whole system, as real processes, on PostgreSQL and Kafka. A package, so that its modules can share one system."""
