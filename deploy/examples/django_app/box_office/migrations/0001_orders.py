"""The first table."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Make it."""

    initial = True
    operations: ClassVar = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("seat", models.TextField(unique=True)),
                ("phone", models.TextField()),
                ("operation_id", models.BigIntegerField(unique=True)),
            ],
        )
    ]
