"""Radloom: pipelines."""
