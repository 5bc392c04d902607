-- Changes what is given of an account: null keeps a value, 0 takes a limit away. One row if there is one.
--
-- Run by: an administrator. Index: account_pkey. Locks: its row, which claims and producers do not wait for
-- unless the APP ID changes.
update outbox.account
set
    app_id = coalesce(%(app_id)s, app_id),
    base_url = coalesce(%(base_url)s, base_url),
    max_in_flight = nullif(coalesce(%(max_in_flight)s, max_in_flight), 0),
    rate_per_second = nullif(coalesce(%(rate_per_second)s, rate_per_second), 0),
    burst = nullif(coalesce(%(burst)s, burst), 0),
    breaker_after = nullif(coalesce(%(breaker_after)s, breaker_after), 0),
    allow_guessable_keys = coalesce(%(allow_guessable_keys)s, allow_guessable_keys)
where name = %(name)s
returning name
