"""Programs that measure durus; what they printed stands beside them. `python -m bench` compares it with others."""
