"""What every process needs: settings, database, health, telemetry, errors, backoff."""
