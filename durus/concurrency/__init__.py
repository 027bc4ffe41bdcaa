"""Interrupts, threads and forks: who may use an object, and how it recovers from an interrupt."""
