"""Radloom: transforms."""
