"""Celery's side: what happens to jobs, as events."""
