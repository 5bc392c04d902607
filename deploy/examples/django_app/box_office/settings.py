"""One database holds our tables and the outbox: one transaction can write to both."""

from __future__ import annotations

import os
import secrets

from psycopg.conninfo import conninfo_to_dict

_where = conninfo_to_dict(os.environ["DATABASE_URL"])

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _where["dbname"],
        "USER": _where.get("user", ""),
        "PASSWORD": _where.get("password", ""),
        "HOST": _where.get("host", ""),
        "PORT": _where.get("port", ""),
    }
}
INSTALLED_APPS = ["box_office"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "box_office.urls"
ASGI_APPLICATION = "box_office.asgi.application"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
SECRET_KEY = secrets.token_hex()  # nothing is signed here: there are no sessions, so no CSRF either
