"""Kafka and the transactions around it: consumer, batch, publisher, outbox, dead letters."""
