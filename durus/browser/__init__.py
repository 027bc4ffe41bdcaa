"""Web pages that show what a database holds, without its classes. Statements CMD-50 to CMD-56."""
