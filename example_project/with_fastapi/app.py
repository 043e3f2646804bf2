"""A FastAPI app whose users watch their jobs: ``uvicorn app:app``, and ``celery -A tasks worker``."""

import os
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from tasks import realtime, transcribe

from celery_realtime import Realtime
from celery_realtime.contrib.fastapi import get_realtime, mount_realtime, realtime_lifespan, realtime_router

FOLDER = Path(__file__).parent
#: The projects of each user. In your application these come from your database.
MEMBERS = {"ada": ["apollo"], "grace": ["gemini"]}


def current_user(authorization: Annotated[str, Header()] = "") -> str:
    """Return the user who asks. DEMO ONLY: a bearer token that is the user's name; replace this with your own login."""
    user = authorization.removeprefix("Bearer ")
    if user not in MEMBERS:
        raise HTTPException(401, "log in first")
    return user


async def is_member(user_id, project_id):
    return project_id in MEMBERS.get(user_id, [])


app = FastAPI(lifespan=realtime_lifespan)
app.add_middleware(
    CORSMiddleware,
    allow_origins=os.environ.get("ORIGINS", "http://localhost:5173").split(","),
    allow_credentials=True,
    allow_methods=["*"],
    allow_headers=["*"],
)
app.include_router(realtime_router(current_user, is_member), prefix="/celery-realtime")
mount_realtime(app, realtime, authorize=is_member)


class Meeting(BaseModel):
    title: str = "Standup"
    seconds: float = 2.0


@app.post("/projects/{project}/jobs", status_code=202)
def start(
    project: str,
    meeting: Meeting,
    user: Annotated[str, Depends(current_user)],
    realtime: Annotated[Realtime, Depends(get_realtime)],
) -> dict[str, str]:
    if project not in MEMBERS[user]:
        raise HTTPException(403, "not your project")
    with realtime.project(project):
        return {"job": transcribe.delay(meeting.title, meeting.seconds).id}


app.mount("/static", StaticFiles(directory=FOLDER.parent / "static"))


@app.get("/")
def index() -> FileResponse:
    return FileResponse(FOLDER / "static" / "index.html")
