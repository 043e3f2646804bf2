"""The app of workers that are set up as the environment says, rightly or wrongly."""

from __future__ import annotations

import json
import os

from celery import Celery

from celery_realtime import Realtime

app = Celery("studio")
app.conf.broker_connection_retry_on_startup = True

#: JSON of the settings; nothing for a worker without the package.
SETTINGS = os.environ.get("REALTIME_SETTINGS")
if SETTINGS is not None:
    Realtime(app, **json.loads(SETTINGS))
