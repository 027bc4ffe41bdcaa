"""The SHELF-1 file: layout, reading, writing, offset map, seals, recovery. spec/shelf.md."""
