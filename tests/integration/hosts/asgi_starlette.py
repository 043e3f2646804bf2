import socketio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tasks import realtime

server = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
realtime.init_socketio(server)


async def index(request):
    return PlainTextResponse("hello")


app = Starlette(routes=[Route("/", index), Mount("/socket.io", socketio.ASGIApp(server, socketio_path=None))])
