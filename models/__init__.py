"""Radloom: models."""
