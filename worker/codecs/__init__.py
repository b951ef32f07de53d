"""Bytes become Events. Pure, one module per format."""
