-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- The ledger's tables, version 1. docs/formats/ledger.md says what they mean. A later version is a
-- further script in ledger.cpp that goes forward from this one; this file is then left as it is.
--
-- The transfers are the truth. account.balance, hold.remaining and hold.closed_seq are caches that
-- the triggers below keep and that Ledger::verify() recomputes.

CREATE TABLE ledger_meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT;

CREATE TABLE account (
  name    TEXT PRIMARY KEY,                -- treasury, fund:user:ada, held:user:ada, usage:CLUSTER
  kind    TEXT NOT NULL,                   -- treasury, fund, held, usage
  fund    TEXT,                            -- Of a fund and a held account: user:ada.
  unit    TEXT NOT NULL DEFAULT 'mGPUs',   -- Units never mix: a wallet in currency has its own.
  floor   INTEGER,                         -- Null: none. 0: never below zero. -N: credit of N.
  balance INTEGER NOT NULL DEFAULT 0,
  CHECK (floor IS NULL OR balance >= floor),
  CHECK ((kind IN ('fund', 'held')) = (fund IS NOT NULL))
) STRICT;

CREATE INDEX account_fund ON account (fund, kind) WHERE fund IS NOT NULL;

CREATE TABLE transfer (
  seq          INTEGER PRIMARY KEY,
  id           TEXT NOT NULL UNIQUE,
  kind         TEXT NOT NULL,              -- grant, hold, charge, release
  debit        TEXT NOT NULL REFERENCES account (name),
  credit       TEXT NOT NULL REFERENCES account (name),
  amount       INTEGER NOT NULL CHECK (amount >= 0),
  hold_id      TEXT,                       -- Of a charge or a release: the hold it draws on.
  run          TEXT NOT NULL,
  gpus         INTEGER NOT NULL,           -- gpus x seconds x weight_milli: the arithmetic of a
  seconds      INTEGER NOT NULL,           --   charge, 0 in every other kind.
  weight_milli INTEGER NOT NULL,
  start_s      INTEGER NOT NULL,           -- UTC seconds, as Slurm recorded the allocation.
  end_s        INTEGER NOT NULL,
  actor        TEXT NOT NULL,
  note         TEXT NOT NULL,
  content_hash TEXT NOT NULL,              -- Of the request: tells a retry from another request.
  ts_us        INTEGER NOT NULL,           -- The ledger's time, UTC microseconds, ever increasing.
  prev_hash    TEXT NOT NULL,
  hash         TEXT NOT NULL,
  CHECK (debit <> credit),
  CHECK (kind NOT IN ('charge', 'release') OR hold_id IS NOT NULL)
) STRICT;

CREATE INDEX transfer_debit ON transfer (debit);
CREATE INDEX transfer_credit ON transfer (credit);
CREATE INDEX transfer_grant ON transfer (credit, amount) WHERE kind = 'grant';
CREATE INDEX transfer_run ON transfer (run);
CREATE INDEX transfer_hold ON transfer (hold_id, kind, amount) WHERE hold_id IS NOT NULL;

CREATE TABLE hold (
  id         TEXT PRIMARY KEY REFERENCES transfer (id),
  fund       TEXT NOT NULL,
  run        TEXT NOT NULL,
  remaining  INTEGER NOT NULL CHECK (remaining >= 0),
  closed_seq INTEGER,                      -- The transfer that closed it. Null: open.
  CHECK (closed_seq IS NULL OR remaining = 0)
) STRICT;

CREATE INDEX hold_run ON hold (run);
CREATE INDEX hold_open ON hold (fund) WHERE closed_seq IS NULL;

CREATE TABLE finding (
  seq     INTEGER PRIMARY KEY,
  at_s    INTEGER NOT NULL,
  subject TEXT NOT NULL,
  text    TEXT NOT NULL,
  UNIQUE (subject, text)
) STRICT;

-- History is written once.

CREATE TRIGGER transfer_no_update BEFORE UPDATE ON transfer BEGIN
  SELECT RAISE(ABORT, 'a transfer is never edited; correct it by another transfer');
END;
CREATE TRIGGER transfer_no_delete BEFORE DELETE ON transfer BEGIN
  SELECT RAISE(ABORT, 'a transfer is never deleted; correct it by another transfer');
END;
CREATE TRIGGER account_no_rename BEFORE UPDATE OF name, kind, fund, unit ON account BEGIN
  SELECT RAISE(ABORT, 'the identity of an account never changes');
END;
CREATE TRIGGER account_no_delete BEFORE DELETE ON account BEGIN
  SELECT RAISE(ABORT, 'an account is never deleted');
END;
CREATE TRIGGER hold_no_rename BEFORE UPDATE OF id, fund, run ON hold BEGIN
  SELECT RAISE(ABORT, 'the identity of a hold never changes');
END;
CREATE TRIGGER hold_no_reopen BEFORE UPDATE ON hold WHEN OLD.closed_seq IS NOT NULL BEGIN
  SELECT RAISE(ABORT, 'a closed hold stays closed');
END;
CREATE TRIGGER hold_no_delete BEFORE DELETE ON hold BEGIN
  SELECT RAISE(ABORT, 'a hold is never deleted; release it');
END;
CREATE TRIGGER finding_no_update BEFORE UPDATE ON finding BEGIN
  SELECT RAISE(ABORT, 'a finding is never edited');
END;
CREATE TRIGGER finding_no_delete BEFORE DELETE ON finding BEGIN
  SELECT RAISE(ABORT, 'a finding is never deleted');
END;

-- A transfer goes at the end of the chain. This also refuses INSERT OR REPLACE, which deletes
-- without firing a delete trigger.
CREATE TRIGGER transfer_append BEFORE INSERT ON transfer BEGIN
  SELECT RAISE(ABORT, 'a transfer goes at the end of the chain')
   WHERE NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM transfer)
      OR EXISTS (SELECT 1 FROM transfer WHERE id = NEW.id)
      OR EXISTS (SELECT 1 FROM transfer
                  WHERE seq = NEW.seq - 1 AND (hash <> NEW.prev_hash OR ts_us >= NEW.ts_us));
  SELECT RAISE(ABORT, 'a transfer joins two accounts of one unit')
   WHERE (SELECT unit FROM account WHERE name = NEW.debit)
      IS NOT (SELECT unit FROM account WHERE name = NEW.credit);
  SELECT RAISE(ABORT, 'a charge or release needs an open hold')
   WHERE NEW.hold_id IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM hold WHERE id = NEW.hold_id AND closed_seq IS NULL);
END;

-- The caches. An overflow makes a real number, which a STRICT integer column refuses.
CREATE TRIGGER transfer_post AFTER INSERT ON transfer BEGIN
  UPDATE account SET balance = balance - NEW.amount WHERE name = NEW.debit;
  UPDATE account SET balance = balance + NEW.amount WHERE name = NEW.credit;
END;
CREATE TRIGGER transfer_post_hold AFTER INSERT ON transfer WHEN NEW.kind = 'hold' BEGIN
  INSERT INTO hold (id, fund, run, remaining)
  VALUES (NEW.id, (SELECT fund FROM account WHERE name = NEW.debit), NEW.run, NEW.amount);
END;
CREATE TRIGGER transfer_post_draw AFTER INSERT ON transfer
WHEN NEW.kind IN ('charge', 'release') BEGIN
  UPDATE hold SET remaining = remaining - NEW.amount,
                  closed_seq = CASE NEW.kind WHEN 'release' THEN NEW.seq END
   WHERE id = NEW.hold_id;
END;

INSERT INTO account (name, kind, floor) VALUES ('treasury', 'treasury', NULL);
INSERT INTO ledger_meta (key, value) VALUES ('schema_version', '1');
