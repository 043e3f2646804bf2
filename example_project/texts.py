"""What the page says, in English and German; the package's web components bring their own words."""

from __future__ import annotations

TEXTS = {
    "en": {
        "title": "Live jobs",
        "lead": "What your Celery workers are doing right now.",
        "user": "User",
        "nobody": "Nobody",
        "project": "Project",
        "hint": "Demo only: no password. ada is a member of apollo, grace of gemini. Try the other project, too.",
        "start": "Start a job",
        "empty": "No jobs yet",
        "empty_more": "Start one with a button above. It appears at once, in every window that shows this project.",
        "noscript": "This page shows jobs live and needs JavaScript.",
        "idle": "Not connected",
        "subscribing": "Connecting…",
        "subscribed": "Live",
        "stale": "Out of date, reconnecting…",
        "refused": "Refused",
        "no_member": "{user} is not a member of {project}, so none of its jobs are shown.",
        "not_started": "Not started.",
        "offline": "The web server does not answer.",
    },
    "de": {
        "title": "Aufträge, live",
        "lead": "Was Ihre Celery-Worker gerade tun.",
        "user": "Wer",
        "nobody": "Niemand",
        "project": "Projekt",
        "hint": "Nur zur Probe, ohne Passwort: ada gehört zu apollo, grace zu gemini.",
        "start": "Einen Auftrag starten",
        "empty": "Noch keine Aufträge",
        "empty_more": "Starten Sie oben einen. Er erscheint sofort in jedem Fenster, das dieses Projekt zeigt.",
        "noscript": "Diese Seite zeigt Aufträge live und braucht JavaScript.",
        "idle": "Nicht verbunden",
        "subscribing": "Verbindet…",
        "subscribed": "Live",
        "stale": "Veraltet, verbindet erneut…",
        "refused": "Abgelehnt",
        "no_member": "{user} gehört nicht zu {project}, daher ist hier nichts zu sehen.",
        "not_started": "Nicht gestartet.",
        "offline": "Der Webserver antwortet nicht.",
    },
}

#: The buttons: what each is called, and what there is to see.
STARTERS = {
    "en": {
        "answer": ("Answer", "word by word; stop it"),
        "episode": ("Episode", "three stages"),
        "backup": ("Back up", "its log, as it is written"),
        "transcribe": ("Transcribe", "messages and metadata"),
        "group": ("Resize", "a group of five"),
        "chain": ("Produce", "a chain of three"),
        "flaky": ("Flaky", "third attempt succeeds"),
        "fail": ("Fail", "an error at 40 %"),
    },
    "de": {
        "answer": ("Antworten", "Wort für Wort, stoppbar"),
        "episode": ("Folge", "drei Abschnitte"),
        "backup": ("Sichern", "mit Protokoll"),
        "transcribe": ("Abschreiben", "Meldungen, Metadaten"),
        "group": ("Verkleinern", "fünf Bilder zugleich"),
        "chain": ("Produzieren", "drei nacheinander"),
        "flaky": ("Wackeln", "gelingt beim dritten Mal"),
        "fail": ("Scheitern", "ein Fehler bei 40 %"),
    },
}
