"""What produces evidence: simulation, chaos, crash matrix, mutants, pressure; `record` publishes what they found."""
