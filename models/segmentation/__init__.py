"""Radloom: models/segmentation."""
