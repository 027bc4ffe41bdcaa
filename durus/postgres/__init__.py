"""What a PostgresStorage is made of: SQL statements, the connection, rows, and packing."""
