"""The APIs that the service speaks, one a file: wire to domain and back, and nothing else."""
