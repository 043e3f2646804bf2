import os

import socketio
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
django_application = get_asgi_application()

from tasks import realtime

server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
realtime.init_socketio(server)
application = socketio.ASGIApp(server, django_application)
