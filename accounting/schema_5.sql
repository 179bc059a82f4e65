-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- From version 4 to version 5: each transfer keeps what its two accounts had after it, so that a
-- statement of one run, or of one month, does not walk through all the years before. A cache, which
-- Ledger::verify() recomputes. Never edit: files made by it exist.

DROP TRIGGER transfer_no_update;

ALTER TABLE transfer ADD COLUMN debit_after INTEGER NOT NULL DEFAULT 0;
ALTER TABLE transfer ADD COLUMN credit_after INTEGER NOT NULL DEFAULT 0;

CREATE TABLE move (
  account TEXT NOT NULL,
  seq     INTEGER NOT NULL,
  balance INTEGER NOT NULL,
  PRIMARY KEY (account, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO move (account, seq, balance)
SELECT account, seq, sum(delta) OVER (PARTITION BY account ORDER BY seq)
  FROM (SELECT debit AS account, seq, -amount AS delta FROM transfer
        UNION ALL SELECT credit, seq, amount FROM transfer);
UPDATE transfer
   SET debit_after = (SELECT balance FROM move WHERE account = debit AND move.seq = transfer.seq),
       credit_after = (SELECT balance FROM move WHERE account = credit AND move.seq = transfer.seq);
DROP TABLE move;

CREATE TRIGGER transfer_no_update BEFORE UPDATE ON transfer BEGIN
  SELECT RAISE(ABORT, 'a transfer is never edited; correct it by another transfer');
END;

UPDATE ledger_meta SET value = '5' WHERE key = 'schema_version';
