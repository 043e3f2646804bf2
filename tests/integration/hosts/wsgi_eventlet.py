import socketio

from tasks import realtime

server = socketio.Server(async_mode="eventlet", client_manager=realtime.client_manager())
realtime.init_socketio(server)
application = socketio.WSGIApp(server)
