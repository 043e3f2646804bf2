from django.conf import settings
from django.db import models


class Project(models.Model):
    slug = models.SlugField(unique=True)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL)

    def __str__(self):
        return self.slug


class Meeting(models.Model):
    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    title = models.CharField(max_length=100)
    summary = models.TextField(blank=True)

    def __str__(self):
        return self.title
