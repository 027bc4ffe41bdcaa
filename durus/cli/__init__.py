"""The `durus` command: one module for each thing that it does."""
