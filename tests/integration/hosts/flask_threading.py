from flask import Flask
from flask_socketio import SocketIO

from tasks import realtime

app = Flask(__name__)
socketio = SocketIO(app, client_manager=realtime.client_manager(), async_mode="threading")
realtime.init_socketio(socketio)


@app.get("/")
def index():
    return "hello"
