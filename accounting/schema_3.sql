-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- From version 2 to version 3: grants with a period. docs/formats/ledger.md says what they mean.
-- Never edit: files made by it exist.

-- What is left of each grant that begins later or expires: a cache, kept by the ledger.
CREATE TABLE lot (
  grant_id  TEXT PRIMARY KEY REFERENCES transfer (id),
  fund      TEXT NOT NULL,
  from_s    INTEGER NOT NULL,
  expires_s INTEGER NOT NULL,               -- 0: never.
  is_active INTEGER NOT NULL,               -- 0: still in the later account.
  remaining INTEGER NOT NULL CHECK (remaining >= 0)
) STRICT;

CREATE INDEX lot_pending ON lot (fund, from_s) WHERE is_active = 0;
CREATE INDEX lot_live ON lot (fund, expires_s, grant_id) WHERE is_active = 1 AND remaining > 0;

-- What an open hold has of a lot: it goes back there, unless it is charged. A cache.
CREATE TABLE lot_draw (
  hold_id   TEXT NOT NULL REFERENCES hold (id),
  grant_id  TEXT NOT NULL REFERENCES lot (grant_id),
  remaining INTEGER NOT NULL CHECK (remaining >= 0),
  PRIMARY KEY (hold_id, grant_id)
) STRICT;

CREATE TRIGGER lot_no_rename BEFORE UPDATE OF grant_id, fund, from_s, expires_s ON lot BEGIN
  SELECT RAISE(ABORT, 'the identity of a lot never changes');
END;

UPDATE ledger_meta SET value = '3' WHERE key = 'schema_version';
