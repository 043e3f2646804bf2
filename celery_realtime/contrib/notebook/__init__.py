"""Jobs in a notebook, live: widgets for JupyterLab, and wherever else anywidget works, with the extra ``notebook``."""

from __future__ import annotations

from celery_realtime.contrib.notebook.widgets import JobsWidget, JobWidget

__all__ = ["JobWidget", "JobsWidget"]
