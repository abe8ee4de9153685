"""Radloom: pipelines/ingest."""
