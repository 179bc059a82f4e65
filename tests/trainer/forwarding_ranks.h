// SPDX-License-Identifier: GPL-3.0-or-later
//
// Other ranks' communicator as it is, for tests that change or count one of its calls.
#pragma once

#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "trainer/communicator.h"

// `inner` outlives it.
class ForwardingRanks : public trainer::Communicator {
 public:
  explicit ForwardingRanks(trainer::Communicator& inner) : inner_(inner) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  int local_rank() const override { return inner_.local_rank(); }
  std::string host() const override { return inner_.host(); }
  void all_reduce_sum(std::span<float> values) override { inner_.all_reduce_sum(values); }
  void all_reduce_sum(std::span<double> values) override { inner_.all_reduce_sum(values); }
  void all_reduce_max(std::span<std::int64_t> values) override { inner_.all_reduce_max(values); }
  void broadcast(std::span<std::byte> bytes, int root) override { inner_.broadcast(bytes, root); }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) override {
    return inner_.all_gather(bytes);
  }
  void barrier() override { inner_.barrier(); }
  Ticket start_sum(const trainer::SumRequest& request) override { return inner_.start_sum(request); }
  double wait(Ticket ticket) override { return inner_.wait(ticket); }
  void advance() override { inner_.advance(); }
  [[noreturn]] void abort(int exit_code) override {
    inner_.abort(exit_code);
    std::abort();
  }

 private:
  trainer::Communicator& inner_;
};
