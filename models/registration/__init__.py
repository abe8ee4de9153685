"""Radloom: models/registration."""
