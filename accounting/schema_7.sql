-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- From version 6 to version 7: what a member with a cap has used of it is kept, not summed up over all
-- his holds at each new one. Never edit: files made by it exist.

-- By each cap in force: what the holds since it was set have, and what was charged of them and is not
-- refunded. Ledger::verify() adds it up by itself (summed_use_of_member), so that a fault here is seen.
CREATE VIEW member_use_sum (fund, member, amount) AS
WITH cap (fund, member, since_us) AS (
  SELECT fund, substr(name, 5), since_s * 1000000 FROM setting WHERE name GLOB 'cap/*')
SELECT fund, member, (
  SELECT coalesce(sum(
           t.amount +
           (SELECT coalesce(sum(CASE c.kind WHEN 'extend' THEN c.amount ELSE -c.amount END), 0)
              FROM transfer c
             WHERE c.hold_id = h.id AND c.kind IN ('extend', 'reduce', 'release')) -
           (SELECT coalesce(sum(r.amount), 0)  -- A refund names its charge, and so its hold.
              FROM transfer c JOIN transfer r ON r.ref = c.id AND r.kind = 'refund'
             WHERE c.hold_id = h.id AND c.kind = 'charge')), 0)
    FROM hold h JOIN transfer t ON t.id = h.id
   WHERE h.fund = cap.fund AND h.member = cap.member AND t.ts_us >= cap.since_us)
  FROM cap;

-- A cache of it.
CREATE TABLE member_use (
  fund   TEXT NOT NULL,
  member TEXT NOT NULL,
  amount INTEGER NOT NULL,                  -- Milli-GPU-seconds.
  PRIMARY KEY (fund, member)
) STRICT;
INSERT INTO member_use (fund, member, amount) SELECT fund, member, amount FROM member_use_sum;

CREATE TRIGGER setting_cap_gone AFTER DELETE ON setting WHEN OLD.name GLOB 'cap/*' BEGIN
  DELETE FROM member_use WHERE fund = OLD.fund AND member = substr(OLD.name, 5);
END;
CREATE TRIGGER setting_cap AFTER INSERT ON setting WHEN NEW.name GLOB 'cap/*' BEGIN
  INSERT INTO member_use (fund, member, amount)
  SELECT fund, member, amount FROM member_use_sum
   WHERE fund = NEW.fund AND member = substr(NEW.name, 5);
END;
CREATE TRIGGER transfer_use_hold AFTER INSERT ON transfer WHEN NEW.kind = 'hold' BEGIN
  UPDATE member_use SET amount = amount + NEW.amount
   WHERE fund = (SELECT fund FROM account WHERE name = NEW.debit) AND member = NEW.actor
     AND NEW.ts_us >= (SELECT since_s * 1000000 FROM setting s
                        WHERE s.fund = member_use.fund AND s.name = 'cap/' || member_use.member);
END;
CREATE TRIGGER transfer_use_change AFTER INSERT ON transfer
WHEN NEW.kind IN ('extend', 'reduce', 'release') BEGIN
  UPDATE member_use SET amount = amount + CASE NEW.kind WHEN 'extend' THEN NEW.amount
                                                        ELSE -NEW.amount END
   WHERE (fund, member) = (SELECT fund, member FROM hold WHERE id = NEW.hold_id)
     AND (SELECT ts_us FROM transfer WHERE id = NEW.hold_id) >=
         (SELECT since_s * 1000000 FROM setting s
           WHERE s.fund = member_use.fund AND s.name = 'cap/' || member_use.member);
END;
CREATE TRIGGER transfer_use_refund AFTER INSERT ON transfer WHEN NEW.kind = 'refund' BEGIN
  UPDATE member_use SET amount = amount - NEW.amount
   WHERE (fund, member) = (SELECT h.fund, h.member FROM transfer c JOIN hold h ON h.id = c.hold_id
                            WHERE c.id = NEW.ref AND c.kind = 'charge')
     AND (SELECT h.ts_us FROM transfer c JOIN transfer h ON h.id = c.hold_id
           WHERE c.id = NEW.ref AND c.kind = 'charge') >=
         (SELECT since_s * 1000000 FROM setting s
           WHERE s.fund = member_use.fund AND s.name = 'cap/' || member_use.member);
END;

UPDATE ledger_meta SET value = '7' WHERE key = 'schema_version';
