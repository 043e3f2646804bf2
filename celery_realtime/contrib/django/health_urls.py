"""``path("health/", include("celery_realtime.contrib.django.health_urls"))``: ``live`` and ``ready`` for probes."""

from __future__ import annotations

from django.urls import path

from celery_realtime.contrib.django import views

app_name = "celery_realtime_health"
urlpatterns = [
    path("", views.ready, name="health"),
    path("live", views.live, name="live"),
    path("ready", views.ready, name="ready"),
]
