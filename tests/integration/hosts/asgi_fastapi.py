import socketio
from fastapi import FastAPI

from tasks import realtime

server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
realtime.init_socketio(server)

app = FastAPI()
app.mount("/socket.io", socketio.ASGIApp(server, socketio_path=None))


@app.get("/")
async def index():
    return "hello"
