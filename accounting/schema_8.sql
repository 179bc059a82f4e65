-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- From version 7 to version 8: what a charge exceeds its hold by, where the fund owes it, is used of the
-- member's cap as the rest of the charge is. A refund of it was subtracted and it was never added, so a
-- member could use more than his cap. Never edit: files made by it exist.

DROP VIEW member_use_sum;
CREATE VIEW member_use_sum (fund, member, amount) AS
WITH cap (fund, member, since_us) AS (
  SELECT fund, substr(name, 5), since_s * 1000000 FROM setting WHERE name GLOB 'cap/*')
SELECT fund, member, (
  SELECT coalesce(sum(
           t.amount +
           (SELECT coalesce(sum(CASE c.kind WHEN 'extend' THEN c.amount ELSE -c.amount END), 0)
              FROM transfer c
             WHERE c.hold_id = h.id AND c.kind IN ('extend', 'reduce', 'release')) +
           -- A refund and a debt name their charge, and so its hold.
           (SELECT coalesce(sum(CASE r.kind WHEN 'debt' THEN r.amount ELSE -r.amount END), 0)
              FROM transfer c JOIN transfer r ON r.ref = c.id AND r.kind IN ('refund', 'debt')
             WHERE c.hold_id = h.id AND c.kind = 'charge')), 0)
    FROM hold h JOIN transfer t ON t.id = h.id
   WHERE h.fund = cap.fund AND h.member = cap.member AND t.ts_us >= cap.since_us)
  FROM cap;

UPDATE member_use SET amount = (
  SELECT s.amount FROM member_use_sum s
   WHERE s.fund = member_use.fund AND s.member = member_use.member);

DROP TRIGGER transfer_use_refund;
CREATE TRIGGER transfer_use_refund AFTER INSERT ON transfer WHEN NEW.kind IN ('refund', 'debt') BEGIN
  UPDATE member_use SET amount = amount + CASE NEW.kind WHEN 'debt' THEN NEW.amount
                                                        ELSE -NEW.amount END
   WHERE (fund, member) = (SELECT h.fund, h.member FROM transfer c JOIN hold h ON h.id = c.hold_id
                            WHERE c.id = NEW.ref AND c.kind = 'charge')
     AND (SELECT h.ts_us FROM transfer c JOIN transfer h ON h.id = c.hold_id
           WHERE c.id = NEW.ref AND c.kind = 'charge') >=
         (SELECT since_s * 1000000 FROM setting s
           WHERE s.fund = member_use.fund AND s.name = 'cap/' || member_use.member);
END;

UPDATE ledger_meta SET value = '8' WHERE key = 'schema_version';
