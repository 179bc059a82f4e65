// SPDX-License-Identifier: GPL-3.0-or-later
//
// Ranks of which none can reach rank 0 beside MPI, as behind a firewall: what rank 0 tells of its
// addresses leads nowhere.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tests/trainer/forwarding_ranks.h"

class CutOffRanks : public ForwardingRanks {
 public:
  explicit CutOffRanks(std::unique_ptr<trainer::Communicator> inner)
      : ForwardingRanks(*inner), owned_(std::move(inner)) {}

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) override {
    auto all = ForwardingRanks::all_gather(bytes);
    constexpr int kDescription = 2;  // After the names of the hosts.
    if (++gathered_ == kDescription) {
      constexpr const char* kNowhere = "1 7";  // Port and token.
      all.front().resize(std::strlen(kNowhere));
      std::memcpy(all.front().data(), kNowhere, all.front().size());
    }
    return all;
  }

 private:
  std::unique_ptr<trainer::Communicator> owned_;
  int gathered_ = 0;
};
