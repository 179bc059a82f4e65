// SPDX-License-Identifier: GPL-3.0-or-later
#include "accounting/journal.h"

#include <fmt/format.h>

#include <map>
#include <vector>

#include "accounting/tariff.h"
#include "accounting/transfer.h"

namespace accounting {
namespace {

// A tag's value ends at a comma or at the end of the line.
std::string tag_value(std::string text) {
  for (char& c : text) {
    if (c == ',') c = ';';
  }
  return text;
}

void append_tag(std::string& journal, std::string_view name, const std::string& value) {
  if (!value.empty()) journal += fmt::format("    ; {}: {}\n", name, tag_value(value));
}

void append_posting(std::string& journal, const std::string& account, Amount amount,
                    Amount balance) {
  journal += fmt::format("    {}  {} mGPUs = {} mGPUs\n", account, amount.milli_gpu_s,
                         balance.milli_gpu_s);
}

std::string description(const Transfer& t) {
  std::string text = t.kind;
  if (t.kind == "charge") {
    text += fmt::format(" {} GPU x {} s x {}", t.gpus, t.seconds, format_weight(t.weight_milli));
  }
  return text;
}

}  // namespace

Expected<std::string> export_journal(Database& db) {
  std::string body;
  std::map<std::string, Amount> balances;
  std::int64_t overflow_seq = 0;
  Head head{.seq = 0, .hash = first_prev_hash()};
  auto done = each_transfer(db, "", {}, [&](const Transfer& t) {
    head = {t.seq, t.hash};
    body += fmt::format("\n{} * ({}) {}\n", format_utc(t.ts_us / 1'000'000).substr(0, 10), t.seq,
                        description(t));
    append_tag(body, "id", t.id);
    append_tag(body, "run", t.run);
    append_tag(body, "hold", t.hold_id);
    append_tag(body, "ref", t.ref.value_or(""));
    append_tag(body, "value", t.value.value_or(""));
    append_tag(body, "actor", t.actor);
    append_tag(body, "note", t.note);
    append_tag(body, "hash", t.hash);
    const auto debit = checked_sub(balances[t.debit], t.amount);
    const auto credit = checked_add(balances[t.credit], t.amount);
    const auto outgoing = checked_sub(Amount{0}, t.amount);
    if (!debit || !credit || !outgoing) {
      overflow_seq = t.seq;
      return;
    }
    balances[t.debit] = *debit;
    balances[t.credit] = *credit;
    append_posting(body, t.debit, *outgoing, *debit);
    append_posting(body, t.credit, t.amount, *credit);
  });
  if (done && overflow_seq != 0) {
    done = tl::unexpected(Error{
        fmt::format("transfer {}: the running balance overflows. The file was changed: verify it.",
                    overflow_seq)});
  }
  if (!done) return tl::unexpected(Error{"journal: " + done.error().message});

  std::string journal =
      "; Made by Trainyard. Check it: hledger check --strict -f FILE\n"
      "; 1 GPU-hour of the reference GPU = 3600000 mGPUs (milli-GPU-seconds)\n"
      "commodity 1. mGPUs\n";
  for (const std::string_view tag : {"id", "run", "hold", "ref", "value", "actor", "note", "hash"}) {
    journal += fmt::format("tag {}\n", tag);
  }
  for (const auto& [name, balance] : balances) journal += fmt::format("account {}\n", name);
  return journal + body + fmt::format("\n; head: {} {}\n", head.seq, head.hash);
}

}  // namespace accounting
