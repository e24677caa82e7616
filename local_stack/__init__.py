"""The whole system on one machine, from packages alone: PostgreSQL, a Kafka-protocol broker, our services."""
