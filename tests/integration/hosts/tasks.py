"""The tasks of the tests, under the name that the documentation gives to a user's."""

from tests.integration.jobs import celery, realtime

__all__ = ["celery", "realtime"]
