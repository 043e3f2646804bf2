"""``path("celery-realtime/", include("celery_realtime.contrib.django.urls"))``: the browser's modules, and tokens."""

from __future__ import annotations

from django.urls import path

from celery_realtime.contrib.django import views

app_name = "celery_realtime"
urlpatterns = [
    path("token", views.token, name="token"),
    path("<str:name>.js", views.module, name="module"),
]
