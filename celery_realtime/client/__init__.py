"""Follow a project from Python: every event once and in order, over a client of python-socketio.

The rules are those of the browser's client, ``static/celery-realtime.js``; both are tested with the same scenarios.
"""

from __future__ import annotations

from celery_realtime.client.feed import Feed, FeedOptions
from celery_realtime.client.following import Followed, follow
from celery_realtime.client.job_feed import JobFeed, JobFeedOptions
from celery_realtime.client.job_subscriptions import AsyncJobSubscription, JobSubscription
from celery_realtime.client.stream_states import StreamState
from celery_realtime.client.subscriptions import AsyncProjectSubscription, ProjectSubscription

__all__ = [
    "AsyncJobSubscription",
    "AsyncProjectSubscription",
    "Feed",
    "FeedOptions",
    "Followed",
    "JobFeed",
    "JobFeedOptions",
    "JobSubscription",
    "ProjectSubscription",
    "StreamState",
    "follow",
]
