"""The app asks for a database when it is imported: here for none, because each test brings its own."""

from __future__ import annotations

import os

os.environ["DATABASE_URL"] = "postgresql://nobody.invalid/shop"
