"""What operators do to orders, participants and dead letters, recorded item by item in runs."""
