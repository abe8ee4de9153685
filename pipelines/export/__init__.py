"""Radloom: pipelines/export."""
