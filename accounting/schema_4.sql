-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- From version 3 to version 4: measured runs, for estimates; alerts of funds that are nearly spent;
-- payments whose money went back.
-- Never edit: files made by it exist.

-- What a finished run took, by Slurm's own record (docs/formats/request.md). No money depends on it.
CREATE TABLE measured_run (
  run          TEXT PRIMARY KEY,
  model        TEXT NOT NULL,
  imgsz        INTEGER NOT NULL,
  type         TEXT NOT NULL,               -- Instance type.
  ranks        INTEGER NOT NULL,
  image_tenths INTEGER NOT NULL CHECK (image_tenths > 0),  -- 10 a training image, 4 a validation image.
  seconds      INTEGER NOT NULL CHECK (seconds > 0),       -- After start-up.
  ended_s      INTEGER NOT NULL,
  low_s        INTEGER NOT NULL,            -- The band that its plan gave for `seconds`.
  high_s       INTEGER NOT NULL
) STRICT;

CREATE INDEX measured_run_kind ON measured_run (model, imgsz, type, ranks, ended_s);

CREATE TRIGGER measured_run_no_update BEFORE UPDATE ON measured_run BEGIN
  SELECT RAISE(ABORT, 'what was measured stays');
END;

-- What each fund's alerts are reckoned from. Armed anew by each grant that comes or begins.
CREATE TABLE alert_arm (
  fund      TEXT PRIMARY KEY,
  armed_seq INTEGER NOT NULL,               -- The transfer that armed it.
  given     INTEGER NOT NULL,               -- What the fund had then: 100 %.
  level     INTEGER NOT NULL                -- The highest that was told since. 0: none.
) STRICT;

CREATE TABLE alert (
  number    INTEGER PRIMARY KEY,
  fund      TEXT NOT NULL,
  level     INTEGER NOT NULL,               -- 80, 95, 100
  armed_seq INTEGER NOT NULL,
  available INTEGER NOT NULL,
  given     INTEGER NOT NULL,
  at_s      INTEGER NOT NULL,
  UNIQUE (fund, level, armed_seq)
) STRICT;

-- The way of an alert to each of its receivers. One that is "sending" when the service starts is not
-- sent again: it may have arrived.
CREATE TABLE alert_way (
  alert   INTEGER NOT NULL REFERENCES alert (number),
  channel TEXT NOT NULL,                    -- command, webhook
  state   TEXT NOT NULL,                    -- waiting, sending, sent, failed
  tries   INTEGER NOT NULL,
  next_s  INTEGER NOT NULL,
  PRIMARY KEY (alert, channel)
) STRICT;

CREATE INDEX alert_waiting ON alert_way (next_s) WHERE state = 'waiting';
CREATE INDEX transfer_taken ON transfer (debit, amount) WHERE kind IN ('take', 'due');
CREATE INDEX transfer_begin ON transfer (credit) WHERE kind = 'begin';

-- Payments whose money went back, as they were told; the payment itself may be told of later.
CREATE TABLE payment_reversal (
  provider  TEXT NOT NULL,
  reversal  TEXT NOT NULL,                  -- The provider's name of it: counts once.
  kind      TEXT NOT NULL,                  -- refund, chargeback
  reference TEXT NOT NULL,                  -- Of the payment.
  currency  TEXT NOT NULL,
  minor     INTEGER NOT NULL CHECK (minor > 0),
  actor     TEXT NOT NULL,
  at_s      INTEGER NOT NULL,
  PRIMARY KEY (provider, reversal)
) STRICT;

CREATE INDEX payment_reversal_of ON payment_reversal (provider, reference);

-- What each of them took back.
CREATE TABLE payment_reversed (
  provider TEXT NOT NULL,
  reversal TEXT NOT NULL,
  grant_id TEXT NOT NULL REFERENCES transfer (id),
  minor    INTEGER NOT NULL CHECK (minor >= 0),   -- Of the money: at most what the receipt had left.
  amount   INTEGER NOT NULL CHECK (amount >= 0),  -- Of the hours.
  due      INTEGER NOT NULL CHECK (due >= 0),     -- A part of amount: the fund did not have it.
  at_s     INTEGER NOT NULL,
  PRIMARY KEY (provider, reversal),
  FOREIGN KEY (provider, reversal) REFERENCES payment_reversal (provider, reversal)
) STRICT;

CREATE INDEX payment_reversed_of ON payment_reversed (grant_id);

CREATE TRIGGER payment_reversal_no_update BEFORE UPDATE ON payment_reversal BEGIN
  SELECT RAISE(ABORT, 'what was written down at the till stays');
END;
CREATE TRIGGER payment_reversal_no_delete BEFORE DELETE ON payment_reversal BEGIN
  SELECT RAISE(ABORT, 'what was written down at the till stays');
END;
CREATE TRIGGER payment_reversed_no_update BEFORE UPDATE ON payment_reversed BEGIN
  SELECT RAISE(ABORT, 'what was written down at the till stays');
END;
CREATE TRIGGER payment_reversed_no_delete BEFORE DELETE ON payment_reversed BEGIN
  SELECT RAISE(ABORT, 'what was written down at the till stays');
END;

-- The last defence of a rule of hours that are taken back.
CREATE TRIGGER transfer_append_4 BEFORE INSERT ON transfer
WHEN NEW.kind IN ('take', 'due') AND EXISTS (SELECT 1 FROM transfer WHERE id = NEW.ref) BEGIN
  SELECT RAISE(ABORT, 'a payment never gives back more than it bought')
   WHERE NEW.amount + (SELECT coalesce(sum(amount), 0) FROM transfer
                        WHERE ref = NEW.ref AND kind IN ('take', 'due'))
       > (SELECT amount FROM transfer WHERE id = NEW.ref);
END;

UPDATE ledger_meta SET value = '4' WHERE key = 'schema_version';
