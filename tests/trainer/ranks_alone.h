// SPDX-License-Identifier: GPL-3.0-or-later
//
// Ranks of which none can reach rank 0 beside MPI, as behind a firewall: what rank 0 tells of its
// addresses leads nowhere.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "trainer/communicator.h"

class CutOffRanks : public trainer::Communicator {
 public:
  explicit CutOffRanks(std::unique_ptr<trainer::Communicator> inner) : inner_(std::move(inner)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int local_rank() const override { return inner_->local_rank(); }
  std::string host() const override { return inner_->host(); }
  void all_reduce_sum(std::span<float> values) override { inner_->all_reduce_sum(values); }
  void all_reduce_sum(std::span<double> values) override { inner_->all_reduce_sum(values); }
  void all_reduce_max(std::span<std::int64_t> values) override { inner_->all_reduce_max(values); }
  void broadcast(std::span<std::byte> bytes, int root) override { inner_->broadcast(bytes, root); }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) override {
    auto all = inner_->all_gather(bytes);
    constexpr int kDescription = 2;  // After the names of the hosts.
    if (++gathered_ == kDescription) {
      constexpr const char* kNowhere = "1 7";  // Port and token.
      all.front().resize(std::strlen(kNowhere));
      std::memcpy(all.front().data(), kNowhere, all.front().size());
    }
    return all;
  }
  void barrier() override { inner_->barrier(); }
  Ticket start_sum(const trainer::SumRequest& request) override { return inner_->start_sum(request); }
  double wait(Ticket ticket) override { return inner_->wait(ticket); }
  [[noreturn]] void abort(int exit_code) override {
    inner_->abort(exit_code);
    std::abort();
  }

 private:
  std::unique_ptr<trainer::Communicator> inner_;
  int gathered_ = 0;
};
