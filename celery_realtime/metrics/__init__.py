"""Metrics for Prometheus: what they are, where they are read, and how they are served; nothing else knows of them."""
