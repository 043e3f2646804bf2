from .models import Project


def is_member(user_id, project_id):
    """Tell whether a user may watch a project: the slug of a row of the database."""
    return Project.objects.filter(slug=project_id, members=user_id).exists()
