"""How a system is found and spoken to: environment, database, REST, tokens, and the errors of all operations."""
