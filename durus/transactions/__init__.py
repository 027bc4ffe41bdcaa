"""Further parts of transactions: savepoints, and the search for changes that nobody noted."""
