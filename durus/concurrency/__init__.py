"""Interrupts, threads and forks: who may use what, and what holds after an exception that came from outside."""
