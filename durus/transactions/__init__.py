"""What a transaction has beside commit and abort: savepoints, and a search for changes that nobody noted."""
