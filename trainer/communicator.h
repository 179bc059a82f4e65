// SPDX-License-Identifier: Apache-2.0
// trainer/communicator.h
//
// The ranks of one training. Every call is a collective: all ranks make it in the same order with
// the same sizes. A failure throws std::runtime_error naming rank, host, call and size; the main
// turns it into MPI_Abort, so that no rank is left waiting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace trainer {

class Communicator {
 public:
  virtual ~Communicator() = default;
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;
  [[nodiscard]] virtual int local_rank() const = 0;     // Among the ranks of this host.
  [[nodiscard]] virtual std::string host() const = 0;
  virtual void all_reduce_sum(std::span<float> values) = 0;
  virtual void all_reduce_sum(std::span<double> values) = 0;
  virtual void all_reduce_max(std::span<std::int64_t> values) = 0;
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  // Every rank's bytes on every rank, in rank order.
  [[nodiscard]] virtual std::vector<std::vector<std::byte>> all_gather(
      std::span<const std::byte> bytes) = 0;
  virtual void barrier() = 0;
  // Ends the processes of all ranks with this exit code. Not a collective.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

[[nodiscard]] std::unique_ptr<Communicator> make_local_communicator();

// Initialises MPI (thread level FUNNELED) and finalises it in the destructor.
[[nodiscard]] std::unique_ptr<Communicator> make_mpi_communicator(int* argc, char*** argv);

}  // namespace trainer
