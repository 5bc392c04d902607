"""Every law broken on purpose, in one patch each or more, and the proof that it is noticed."""
