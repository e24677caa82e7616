"""What a cluster's controller does to a running system: it replaces, adds and removes processes, and loses nodes."""
