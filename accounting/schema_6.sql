-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- From version 5 to version 6: alert_arm.given is what the fund had at the transfer that armed it, and
-- what expired since is taken off at each look. It was once what the fund had at the look that armed
-- it, at most a minute later, without what had expired by then: that is added again. Rows that say
-- what the fund had at the transfer are as they are meant. Never edit: files made by it exist.

CREATE TABLE arm_now (
  fund    TEXT PRIMARY KEY,
  expired INTEGER NOT NULL,                 -- Between the transfer and the look.
  had     INTEGER NOT NULL,                 -- At the transfer, available and held ...
  used    INTEGER NOT NULL                  -- ... and what the fund had used until then.
) STRICT;
INSERT INTO arm_now (fund, expired, had, used)
SELECT a.fund,
       (SELECT sum(e.amount) FROM transfer e
         WHERE e.credit = 'expired:' || a.fund AND e.kind = 'expire' AND e.seq > a.armed_seq
           AND e.ts_us <= t.ts_us + 60000000),
       (SELECT coalesce(sum(m.amount), 0) FROM transfer m
         WHERE m.credit IN ('fund:' || a.fund, 'held:' || a.fund) AND m.seq <= a.armed_seq) -
       (SELECT coalesce(sum(m.amount), 0) FROM transfer m
         WHERE m.debit IN ('fund:' || a.fund, 'held:' || a.fund) AND m.seq <= a.armed_seq),
       (SELECT coalesce(sum(m.amount), 0) FROM transfer m
         WHERE m.debit = 'held:' || a.fund AND m.kind = 'charge' AND m.seq <= a.armed_seq) -
       (SELECT coalesce(sum(m.amount), 0) FROM transfer m
         WHERE m.credit = 'fund:' || a.fund AND m.kind = 'refund' AND m.seq <= a.armed_seq)
  FROM alert_arm a JOIN transfer t ON t.seq = a.armed_seq
 WHERE EXISTS (SELECT 1 FROM transfer e
                WHERE e.credit = 'expired:' || a.fund AND e.kind = 'expire' AND e.seq > a.armed_seq
                  AND e.ts_us <= t.ts_us + 60000000);
UPDATE alert_arm
   SET given = given + (SELECT expired FROM arm_now n WHERE n.fund = alert_arm.fund)
 WHERE EXISTS (SELECT 1 FROM arm_now n WHERE n.fund = alert_arm.fund
                  AND alert_arm.given NOT IN (n.had, n.had + n.used));
DROP TABLE arm_now;

UPDATE ledger_meta SET value = '6' WHERE key = 'schema_version';
