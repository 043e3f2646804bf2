import socketio

from tasks import realtime

server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
realtime.init_socketio(server)
application = socketio.ASGIApp(server)
