"""A Flask app whose users watch their jobs.

``flask --app studio demo``, then ``flask --app studio run``; a worker: ``celery -A make_celery worker``.
"""

import os
from pathlib import Path

from celery import Celery, Task
from flask import Flask, redirect, render_template, request, send_from_directory, url_for
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy

from celery_realtime import Realtime
from celery_realtime.contrib.flask import init_flask

db = SQLAlchemy()
login_manager = LoginManager()
socketio = SocketIO()


class User(UserMixin, db.Model):
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(50), unique=True, nullable=False)


class Membership(db.Model):
    user_id = db.Column(db.ForeignKey(User.id), primary_key=True)
    project = db.Column(db.String(50), primary_key=True)


class Meeting(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    title = db.Column(db.String(100), nullable=False)
    summary = db.Column(db.String(200))


@login_manager.user_loader
def load_user(user_id):
    return db.session.get(User, int(user_id))


def is_member(user_id, project_id):
    """Tell whether a user may watch a project."""
    return db.session.get(Membership, (int(user_id), project_id)) is not None


def create_app():
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=os.environ.get("SECRET_KEY", "for this example only"),
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{os.environ.get('DATABASE', 'studio.sqlite3')}",
        CELERY={
            "broker_url": os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"),
            "result_backend": os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/1"),
            "realtime_secret_key": os.environ.get("REALTIME_SECRET_KEY"),
            "realtime_progress_interval": 0.1,
        },
    )
    db.init_app(app)
    login_manager.init_app(app)
    celery_init_app(app)
    realtime = Realtime(app)  # of app.extensions["celery"]
    socketio.init_app(app, client_manager=realtime.client_manager(), async_mode="threading")
    init_flask(app, socketio, realtime, authorize=is_member)
    add_views(app, realtime)
    app.cli.command("demo")(make_demo_data)
    return app


def celery_init_app(app):
    """Make the Celery app as Flask's own documentation has it: tasks run in the application context."""

    class FlaskTask(Task):
        def __call__(self, *args, **kwargs):
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app


def add_views(app, realtime):
    from tasks import transcribe

    @app.get("/")
    def index():
        projects = [row.project for row in Membership.query.filter_by(user_id=current_user.get_id())]
        return render_template("index.html", projects=projects, users=[user.name for user in User.query])

    @app.post("/login")
    def login():
        """Log a user in without a password. DEMO ONLY: replace this with your own login."""
        login_user(User.query.filter_by(name=request.form["name"]).first_or_404())
        return redirect(url_for("index"))

    @app.post("/projects/<project>/jobs")
    @login_required
    def start(project):
        if not is_member(current_user.get_id(), project):
            return {"error": "not your project"}, 403
        meeting = Meeting(title=request.form.get("title", "Standup"))
        db.session.add(meeting)
        db.session.commit()
        with realtime.project(project):
            job = transcribe.delay(meeting.id, float(request.form.get("seconds", 2)))
        return {"job": job.id}, 202

    @app.get("/<name>.js")
    def script(name):
        return send_from_directory(Path(app.root_path).parent / "static", f"{name}.js", mimetype="text/javascript")


def make_demo_data():
    """Make the users ada and grace, each with a project. DEMO ONLY."""
    db.create_all()
    for number, (name, project) in enumerate({"ada": "apollo", "grace": "gemini"}.items(), start=1):
        db.session.merge(User(id=number, name=name))
        db.session.merge(Membership(user_id=number, project=project))
    db.session.commit()
