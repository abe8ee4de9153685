"""Radloom: transforms/denoising."""
