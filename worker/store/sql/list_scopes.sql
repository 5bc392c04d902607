-- Whether accounts or lanes are under a legal hold as a whole: then no list of operations holds all.
--
-- Run by: a person. Index: legal_hold_of_scope. Locks: nothing.
select exists (select from outbox.legal_hold where operation_id is null) as there
