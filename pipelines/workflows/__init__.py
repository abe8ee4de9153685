"""Radloom: pipelines/workflows."""
