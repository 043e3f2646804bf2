import eventlet

eventlet.monkey_patch()

import os

from flask import Flask
from flask_socketio import SocketIO

from tasks import realtime

app = Flask(__name__)
socketio = SocketIO(app, client_manager=realtime.client_manager(), async_mode="eventlet")
realtime.init_socketio(socketio)


@app.get("/")
def index():
    return "hello"


if __name__ == "__main__":
    socketio.run(app, port=int(os.environ.get("PORT", "5000")))
