"""The messages between all services: values, messages, topics, codec. No business rules and no I/O."""
