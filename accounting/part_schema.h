// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/part_schema.h
//
// The tables that stand in the books beside the ledger (the till's, the runs'), with a version of
// their own in ledger_meta: "till_version", "run_version".
#pragma once

#include <span>
#include <string>
#include <vector>

#include "accounting/database.h"

namespace accounting {

// Makes the tables of the part or brings them forward, all or nothing; the ledger's stand already.
// Element i of `scripts` goes from version i to i + 1: add at the end, never edit, files made by each
// of them exist. The first makes only what is not there, as the oldest files have the tables and no
// version. A trigger that is missing or was changed is put back, with a finding. An Error where the file
// is of a newer program.
[[nodiscard]] Expected<void> open_part(Database& db, const std::string& part,
                                       std::span<const std::string> scripts);

// The triggers that the scripts make and that are missing, or were changed: one sentence each. Those of
// a table that is not there yet, of a later version, are not missing.
[[nodiscard]] Expected<std::vector<std::string>> faults_of_part(Database& db,
                                                                std::span<const std::string> scripts);

}  // namespace accounting
