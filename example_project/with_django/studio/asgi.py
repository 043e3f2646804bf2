import os

from django.core.asgi import get_asgi_application

from celery_realtime.contrib.django import realtime_asgi

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "studio.settings")

application = realtime_asgi(get_asgi_application())
