"""A box office on Django: an order and the SMS that confirms it, in one transaction."""
