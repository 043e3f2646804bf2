"""What is stored on Redis: the only place that knows it."""
