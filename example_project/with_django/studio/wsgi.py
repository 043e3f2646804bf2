import os

from django.core.wsgi import get_wsgi_application

from celery_realtime.contrib.django import realtime_wsgi

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "studio.settings")

application = realtime_wsgi(get_wsgi_application())
