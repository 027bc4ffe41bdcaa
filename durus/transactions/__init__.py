"""What a transaction has beside commit and abort."""
