"""After a restore: bring PostgreSQL and Kafka to one state again when one of them stands at an earlier time."""
