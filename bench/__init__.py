"""Programs that measure durus and print tables; what they printed stands beside them."""
