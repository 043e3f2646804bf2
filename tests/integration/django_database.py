"""Settings of Django for the jobs of the tests, whose results are in a PostgreSQL, over connections that stay open."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

_address = urlsplit(os.environ["DATABASE"])

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django_celery_results"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _address.path.lstrip("/"),
        "HOST": _address.hostname,
        "PORT": _address.port,
        "USER": _address.username,
        "CONN_MAX_AGE": None,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
