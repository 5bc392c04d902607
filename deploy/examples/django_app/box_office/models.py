"""Our tables."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """A seat, and the operation that tells its owner."""

    seat = models.TextField(unique=True)
    phone = models.TextField()
    operation_id = models.BigIntegerField(unique=True)

    def __str__(self) -> str:
        """Name the order, for people."""
        return f"order {self.pk}, seat {self.seat}"
