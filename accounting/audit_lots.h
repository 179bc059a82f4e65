// SPDX-License-Identifier: GPL-3.0-or-later
// accounting/audit_lots.h
//
// Private to the module: the lots once more, from the transfers alone. Shares nothing with lots.cpp.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "accounting/transfer.h"

namespace accounting {

class LotAuditor {
 public:
  // Each tells what a transfer that was just visited does. `available`: of the fund, behind it.
  void granted(const Transfer& t, const std::string& fund, Amount available);
  void begun(const Transfer& t, Amount available);
  void expired(const Transfer& t);
  void held(const Transfer& t, const std::string& fund, const std::string& hold_id);
  void charged(const std::string& hold_id, Amount amount);
  void returned(const Transfer& t, Amount remaining_before);
  void repaid(const std::string& fund, Amount amount);

  [[nodiscard]] Expected<void> compare(Database& db);
  [[nodiscard]] std::vector<std::string> take_faults() { return std::move(faults_); }

 private:
  struct Lot {
    std::string fund;
    UtcSeconds from = 0, expires = 0;
    bool is_active = false;
    Amount remaining;
  };
  using Soonest = std::pair<UtcSeconds, std::string>;  // Expiry and grant.
  [[nodiscard]] Amount room(const std::string& fund, Amount available, Amount amount) const;

  std::map<std::string, Lot> lots_;                             // By grant.
  std::map<std::string, std::map<Soonest, Lot*>> live_;         // By fund: active and dated.
  std::map<std::string, std::map<Soonest, Amount>> draws_;      // By hold.
  std::map<std::string, std::string> quotes_;                   // Of the holds that have one.
  // A quote's hold that was released last: the very next hold, of its run, gets its hours whole.
  std::int64_t passed_on_seq_ = 0;
  std::string passed_on_quote_;
  std::vector<std::string> faults_;
};

}  // namespace accounting
