"""Jobs in a notebook, live: widgets for Jupyter, VS Code, marimo and Colab. It needs the extra ``notebook``."""

from __future__ import annotations

from celery_realtime.contrib.notebook.widgets import JobsWidget, JobWidget

__all__ = ["JobWidget", "JobsWidget"]
