"""For pytest's ``-p``: hypothesis tells the first failure that it meets, as it met it.

Whether there is one is all that is asked of the model here. To make it smaller takes minutes, and where the
model depends on real time it ends in a complaint about that in place of the failure.
"""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=[Phase.generate], database=None, report_multiple_bugs=False)
settings.load_profile("unshrunk")
