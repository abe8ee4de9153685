"""Radloom: transforms/synthesis."""
