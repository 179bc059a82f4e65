// SPDX-License-Identifier: GPL-3.0-or-later
// tests/accounting/ledger_table.h
//
// The table language of the ledger: one line an event, the answer behind "->"
// (docs/formats/ledger.md, "A worked example").
//
//   at       2026-11-24T08:00:00Z                          the clock, for the lines below
//   grant    ID FUND AMOUNT [actor=root] [note=...] [from=UTC] [expires=UTC]
//                                                          -> granted | already_granted | ...
//   hold     ID FUND AMOUNT [run=...] [actor=ada] [gpus=N] [expires=SECONDS] [quote=...]
//                                                          -> held | exceeds_available | ...
//   extend   ID HOLD AMOUNT                                -> extended | hold_closed | ...
//   reduce   ID HOLD AMOUNT                                -> reduced | exceeds_remaining | ...
//   refund   ID CHARGE AMOUNT                              -> refunded | exceeds_charge | ...
//   set      ID FUND NAME [VALUE] [since=UTC]              -> set | below_use | ...
//   charge   ID HOLD gpus=N seconds=N weight=N [cluster=alpha] [start=UTC] [end=UTC] [note=...]
//            [excess=site|fund]                            -> charged AMOUNT [excess AMOUNT] | ...
//   release  HOLD [note=...]                               -> released | ...
//   turn                                                   what is due of dated grants
//   balance  FUND            -> available A held A granted A charged A [later A] [expired A] [owed A]
//                               [credit A] | unknown
//   dated    FUND            -> what is left of its dated grants: "g1:10h g2:5h" | none
//   use      FUND MEMBER     -> what the member has used of the fund
//   refundable CHARGE        -> what may still be refunded | unknown
//   expired                  -> the open holds whose time is over | none
//   state    HOLD            -> open|closed charged A released A remaining A | unknown
//   lines    FUND|run=RUN    -> the kinds, such as "grant hold charge"
//   after    FUND            -> the running "available/balance" of each line
//   findings                 -> how many
//   verify                   -> right | the first fault
//
// An AMOUNT is 10h, 90m, 30s, or 7mGPUs. A value with blanks stands in "quotes". '#' starts a
// comment where a line starts.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "accounting/ledger.h"

namespace accounting {

struct TableLine {
  int number = 0;  // In its file, from 1.
  std::vector<std::string> words;
  std::string answer;  // Blanks squeezed.
};

// The shortest exact form of an amount.
[[nodiscard]] std::string exact(Amount amount);

// The lines with something on them. Throws std::runtime_error where one cannot be read.
[[nodiscard]] std::vector<TableLine> parse_table(std::string_view text, int first_line);

// Asks the ledger what one line asks, moves `clock` where it is an `at`, and returns the answer in
// the language of the table.
[[nodiscard]] std::string ask(Ledger& ledger, const TableLine& line, UtcSeconds& clock);

}  // namespace accounting
