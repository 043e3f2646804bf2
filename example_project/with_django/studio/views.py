from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_POST

from .celery import realtime
from .models import Meeting, Project
from .tasks import transcribe


@login_required
def index(request):
    return render(request, "index.html", {"projects": Project.objects.filter(members=request.user)})


@login_required
@require_POST
def start(request, slug):
    """Add a meeting, and have it transcribed as soon as it has been committed."""
    project = get_object_or_404(Project, slug=slug, members=request.user)
    with transaction.atomic():
        meeting = Meeting.objects.create(project=project, title=request.POST.get("title") or "Standup")
        with realtime.project(slug):
            transcribe.delay_on_commit(meeting.pk, float(request.POST.get("seconds", 2)))
    return JsonResponse({"meeting": meeting.pk}, status=202)
