"""The wire between all services, and nothing else: values, messages, topics, codec. Never business rules, never I/O."""
