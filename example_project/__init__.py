"""A small project that uses celery_realtime: copy it, then make it yours."""
