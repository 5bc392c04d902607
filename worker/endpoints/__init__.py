"""The API's endpoints, each as a function that builds a request and checks it before it is frozen.

    voice.call  voice.broadcast  sms.send  whatsapp.send  rcs.send  rcs.template  message.send

    enqueue(conn, sms.send(from_="SHOP", to="+919876543210", data="On its way"), lane="orders")

Functions, not classes, and only for what the documents state: everything else goes through ``more``, or as a
mapping or text straight to ``enqueue``. Where an endpoint is, and how its answers are read, stands in
``outbox.endpoint``; another API is another row there, and needs nothing here.

Each body has a field that comes back in webhooks (``owner_ref``, ``reference``, ``custom_data``). Unless it
was given, it gets the idempotency key of its operation when that is enqueued, so that a webhook leads to its
row in ``outbox.operation``. (After ``outbox.reissue`` it still holds the key of the first operation: the body
is the same.)
"""

from __future__ import annotations

from worker.endpoints import message, rcs, sms, voice, whatsapp
from worker.endpoints.request import Request

__all__ = ["Request", "message", "rcs", "sms", "voice", "whatsapp"]
