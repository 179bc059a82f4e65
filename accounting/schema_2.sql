-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- From version 1 to version 2: holds are extended, reduced and expire; charges are refunded; what a
-- usage exceeds its hold by may be the fund's debt; an admin's settings of a fund stand in the
-- chain. docs/formats/ledger.md says what they mean. Never edit: files made by it exist.

ALTER TABLE transfer ADD COLUMN ref TEXT;    -- refund, debt: the charge. set: the setting. hold: the quote.
ALTER TABLE transfer ADD COLUMN value TEXT;  -- set: the new value. Null: the setting is taken back.

CREATE INDEX transfer_ref ON transfer (ref, kind, amount) WHERE ref IS NOT NULL;

ALTER TABLE hold ADD COLUMN member TEXT NOT NULL DEFAULT '';      -- Who asked for it.
ALTER TABLE hold ADD COLUMN gpus INTEGER NOT NULL DEFAULT 0;      -- In use while it is open.
ALTER TABLE hold ADD COLUMN expires_s INTEGER NOT NULL DEFAULT 0; -- UTC seconds. 0: never.

DROP TRIGGER hold_no_reopen;
DROP TRIGGER hold_no_rename;
UPDATE hold SET member = (SELECT actor FROM transfer WHERE transfer.id = hold.id);
CREATE TRIGGER hold_no_reopen BEFORE UPDATE ON hold WHEN OLD.closed_seq IS NOT NULL BEGIN
  SELECT RAISE(ABORT, 'a closed hold stays closed');
END;
CREATE TRIGGER hold_no_rename BEFORE UPDATE OF id, fund, run, member, gpus, expires_s ON hold BEGIN
  SELECT RAISE(ABORT, 'the identity of a hold never changes');
END;

CREATE INDEX hold_member ON hold (fund, member);
CREATE INDEX hold_expiry ON hold (expires_s) WHERE closed_seq IS NULL AND expires_s > 0;

-- The newest value of each setting of a fund: a cache.
CREATE TABLE setting (
  fund    TEXT NOT NULL,
  name    TEXT NOT NULL,
  value   TEXT NOT NULL,
  since_s INTEGER NOT NULL,
  PRIMARY KEY (fund, name)
) STRICT;

DROP TRIGGER transfer_post_hold;
DROP TRIGGER transfer_post_draw;
CREATE TRIGGER transfer_post_hold AFTER INSERT ON transfer WHEN NEW.kind = 'hold' BEGIN
  INSERT INTO hold (id, fund, run, remaining, member, gpus, expires_s)
  VALUES (NEW.id, (SELECT fund FROM account WHERE name = NEW.debit), NEW.run, NEW.amount, NEW.actor,
          NEW.gpus, NEW.end_s);
END;
CREATE TRIGGER transfer_post_draw AFTER INSERT ON transfer
WHEN NEW.kind IN ('charge', 'release', 'reduce', 'extend') BEGIN
  UPDATE hold SET remaining = remaining + CASE NEW.kind WHEN 'extend' THEN NEW.amount
                                                        ELSE -NEW.amount END,
                  closed_seq = CASE NEW.kind WHEN 'release' THEN NEW.seq END
   WHERE id = NEW.hold_id;
END;
CREATE TRIGGER transfer_post_set AFTER INSERT ON transfer WHEN NEW.kind = 'set' BEGIN
  DELETE FROM setting WHERE fund = substr(NEW.credit, 6) AND name = NEW.ref;
  INSERT INTO setting (fund, name, value, since_s)
  SELECT substr(NEW.credit, 6), NEW.ref, NEW.value, NEW.start_s WHERE NEW.value IS NOT NULL;
  UPDATE account SET floor = -CAST(coalesce(NEW.value, '0') AS INTEGER)
   WHERE name = NEW.credit AND NEW.ref = 'credit_limit';
END;

-- The last defence of three rules that the ledger checks before.
CREATE TRIGGER transfer_append_2 BEFORE INSERT ON transfer BEGIN
  SELECT RAISE(ABORT, 'an extension or reduction names its hold')
   WHERE NEW.kind IN ('extend', 'reduce') AND NEW.hold_id IS NULL;
  SELECT RAISE(ABORT, 'a refund never exceeds what was charged')
   WHERE NEW.kind = 'refund'
     AND NEW.amount + (SELECT coalesce(sum(amount), 0) FROM transfer
                        WHERE ref = NEW.ref AND kind = 'refund')
       > (SELECT coalesce(sum(amount), 0) FROM transfer WHERE id = NEW.ref AND kind = 'charge')
       + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE ref = NEW.ref AND kind = 'debt');
  SELECT RAISE(ABORT, 'a repayment never exceeds the debt')
   WHERE NEW.kind = 'repay'
     AND NEW.amount > (SELECT -balance FROM account WHERE name = NEW.credit);
END;

UPDATE ledger_meta SET value = '2' WHERE key = 'schema_version';
