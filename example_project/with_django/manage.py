"""``python manage.py demo``, then ``python manage.py runserver``; a worker: ``celery -A studio worker``."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "studio.settings")
    execute_from_command_line(sys.argv)
