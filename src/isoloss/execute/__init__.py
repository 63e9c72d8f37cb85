"""Trains what a plan lacks: workers, their order, progress and faults."""
