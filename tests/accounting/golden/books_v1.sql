-- SPDX-License-Identifier: GPL-3.0-or-later
-- Books that the first version of the schema made, as `sqlite3 .dump` wrote them.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE ledger_meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT;
INSERT INTO ledger_meta VALUES('schema_version','1');
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
INSERT INTO account VALUES('treasury','treasury',NULL,'mGPUs',NULL,-396000000);
INSERT INTO account VALUES('fund:user:ada','fund','user:ada','mGPUs',0,298800000);
INSERT INTO account VALUES('held:user:ada','held','user:ada','mGPUs',0,3600000);
INSERT INTO account VALUES('fund:group:vision','fund','group:vision','mGPUs',0,21600000);
INSERT INTO account VALUES('held:group:vision','held','group:vision','mGPUs',0,0);
INSERT INTO account VALUES('usage:alpha','usage',NULL,'mGPUs',0,72000000);
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
INSERT INTO transfer VALUES(1,'g1','grant','treasury','fund:user:ada',360000000,NULL,'',0,0,0,0,0,'root','term 2026','e5702a936be6e914fca121bdcc76d2bace55352ea6c3901b6d257e9c6cc84dd1',1795507200000000,'0000000000000000000000000000000000000000000000000000000000000000','a4c70ae17f7016f4a56d3f9e7cb45ef6fa99917344cc6d0e61dce7f004f7cc0b');
INSERT INTO transfer VALUES(2,'g2','grant','treasury','fund:group:vision',36000000,NULL,'',0,0,0,0,0,'root','','4a00c1f5a6efc0dc91cb039688b290edcccfcaff6fe0ee13bde266d06ddc6f71',1795507201000000,'a4c70ae17f7016f4a56d3f9e7cb45ef6fa99917344cc6d0e61dce7f004f7cc0b','db75de02bff2785c9b65590c1a2dc4ac165e93f74eb359ee2d4f752b45e051fa');
INSERT INTO transfer VALUES(3,'r1/1','hold','fund:user:ada','held:user:ada',230400000,NULL,'r1',0,0,0,0,0,'ada','','d0e2b7134318160c566176c4a01568e002e57a65fb927a5cff4c222d25e1ec93',1795507202000000,'db75de02bff2785c9b65590c1a2dc4ac165e93f74eb359ee2d4f752b45e051fa','6b38c31255a4b03b3635313a980ce28b26014b85217b31afa9f85fc753720a40');
INSERT INTO transfer VALUES(4,'alpha/17/0','charge','held:user:ada','usage:alpha',57600000,'r1/1','r1',8,7200,1000,1795507203,1795514403,'','h100 NODE_FAIL','eb20a5ab72f2ad55883c413731c4eeeae13bc8249206b22ccff3d2b1707b492a',1795514410000000,'6b38c31255a4b03b3635313a980ce28b26014b85217b31afa9f85fc753720a40','339358569bc2e0392c81fdfd8f83dd4831b0936bdf7b74883db1208d4a333aac');
INSERT INTO transfer VALUES(5,'r1/1/release','release','held:user:ada','fund:user:ada',172800000,'r1/1','r1',0,0,0,0,0,'','finished','56f294315aaaf762511f311d28f672163e44d82b6391f5eec0d4c220a06bb488',1795514420000000,'339358569bc2e0392c81fdfd8f83dd4831b0936bdf7b74883db1208d4a333aac','b49ab81ff87e3361c77a3f6d156de9515529cb5fe53b89b203fafd40299e9674');
INSERT INTO transfer VALUES(6,'r2/1','hold','fund:group:vision','held:group:vision',14400000,NULL,'r2',0,0,0,0,0,'ada','','b61b4062e344e3213dded1159af4ffc3fd9666dfb122d4b96f8ebf2154e4e79a',1795514430000000,'b49ab81ff87e3361c77a3f6d156de9515529cb5fe53b89b203fafd40299e9674','23b4711ea0932d273370b7f5dc99cd1a00cd9041276b0000d02b0f8597e0921f');
INSERT INTO transfer VALUES(7,'alpha/18/0','charge','held:group:vision','usage:alpha',14400000,'r2/1','r2',8,3600,1000,1795514440,1795518040,'','h100 TIMEOUT','63fb52a27812a7c4e3ecda132126e0154221db072eda9bf7310d105523de742c',1795518050000000,'23b4711ea0932d273370b7f5dc99cd1a00cd9041276b0000d02b0f8597e0921f','b0b5668257ca4e56a5005bedbdfe1f27c49eddc052fa63ea24e62c25db9b5bb0');
INSERT INTO transfer VALUES(8,'r3/1','hold','fund:user:ada','held:user:ada',3600000,NULL,'r3',0,0,0,0,0,'ada','','1154e2de01ef1f2aa032e29b8b41b1c6eeadc167d41d34a03f5e80697127b82a',1795518060000000,'b0b5668257ca4e56a5005bedbdfe1f27c49eddc052fa63ea24e62c25db9b5bb0','42791c1ba43ba16929321747fee16ef88c94cb7e21a75046f9f47ead376dca73');
CREATE TABLE hold (
  id         TEXT PRIMARY KEY REFERENCES transfer (id),
  fund       TEXT NOT NULL,
  run        TEXT NOT NULL,
  remaining  INTEGER NOT NULL CHECK (remaining >= 0),
  closed_seq INTEGER,                      -- The transfer that closed it. Null: open.
  CHECK (closed_seq IS NULL OR remaining = 0)
) STRICT;
INSERT INTO hold VALUES('r1/1','user:ada','r1',0,5);
INSERT INTO hold VALUES('r2/1','group:vision','r2',0,NULL);
INSERT INTO hold VALUES('r3/1','user:ada','r3',3600000,NULL);
CREATE TABLE finding (
  seq     INTEGER PRIMARY KEY,
  at_s    INTEGER NOT NULL,
  subject TEXT NOT NULL,
  text    TEXT NOT NULL,
  UNIQUE (subject, text)
) STRICT;
INSERT INTO finding VALUES(1,1795518050,'alpha/18/0','charge alpha/18/0: 8 GPU x 3600 s x 1.000 = 28800000 mGPUs exceeds the 14400000 mGPUs left of hold r2/1; the site bears 14400000 mGPUs (4.000 GPU-h).');
CREATE INDEX account_fund ON account (fund, kind) WHERE fund IS NOT NULL;
CREATE INDEX transfer_debit ON transfer (debit);
CREATE INDEX transfer_credit ON transfer (credit);
CREATE INDEX transfer_grant ON transfer (credit, amount) WHERE kind = 'grant';
CREATE INDEX transfer_run ON transfer (run);
CREATE INDEX transfer_hold ON transfer (hold_id, kind, amount) WHERE hold_id IS NOT NULL;
CREATE INDEX hold_run ON hold (run);
CREATE INDEX hold_open ON hold (fund) WHERE closed_seq IS NULL;
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
COMMIT;
