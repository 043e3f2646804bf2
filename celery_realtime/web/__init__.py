"""Browsers: web servers, their clients and what those may see."""
