from pathlib import Path

from django.conf import settings
from django.contrib.auth.views import LoginView
from django.urls import include, path
from django.views.static import serve

from . import views

urlpatterns = [
    path("", views.index),
    path("login", LoginView.as_view(template_name="login.html")),
    path("projects/<slug:slug>/jobs", views.start),
    path("celery-realtime/", include("celery_realtime.contrib.django.urls")),
]
if settings.DEBUG:  # in production, your way to serve static files
    urlpatterns.append(path("static/<path:path>", serve, {"document_root": Path(settings.FOLDER).parent / "static"}))
