"""The smallest Django project that there is."""
