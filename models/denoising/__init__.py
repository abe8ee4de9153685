"""Radloom: models/denoising."""
