from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand

from studio.models import Project

MEMBERS = {"ada": "apollo", "grace": "gemini"}


class Command(BaseCommand):
    help = "Make the database, with the users ada and grace (password: demo), each with a project. DEMO ONLY."

    def handle(self, **_options):
        call_command("migrate", verbosity=0)
        for name, slug in MEMBERS.items():
            users = get_user_model().objects
            user = users.filter(username=name).first() or users.create_user(name, password="demo")
            Project.objects.get_or_create(slug=slug)[0].members.add(user)
