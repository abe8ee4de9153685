"""Radloom: pipelines/report."""
