// SPDX-License-Identifier: Apache-2.0
// trainer/communicator.h
//
// The ranks of one training. Every call is a collective: all ranks make it in the same order with
// the same sizes. A failure throws std::runtime_error naming rank, host, call and size; the main
// turns it into abort(), so that no rank is left waiting. Used by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace trainer {

// As what a float travels: as itself, or as bfloat16 with half the bytes and 8 bits of precision.
enum class Wire { kFloat32, kBfloat16 };

// A sum that goes on in the background.
struct SumRequest {
  std::span<float> values;
  Wire wire = Wire::kFloat32;
  // For bfloat16: what rounding took away last time is added now, and what it takes now is left
  // here. As long as `values`, or empty.
  std::span<float> residual = {};
  // Whose memory that is. Kept until the sum is done: who started it may be gone by then, as where an
  // error ends a step. May be empty.
  std::shared_ptr<const void> memory = nullptr;
};

// Memory of this rank's GPU, as an array of floats or of bfloat16.
struct DeviceSum {
  void* values = nullptr;
  std::size_t count = 0;
  Wire type = Wire::kFloat32;
};

class Communicator {
 public:
  using Ticket = std::uint64_t;

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

  // Replaces the values by their sums over all ranks while the caller goes on: until wait() they
  // belong to the communicator. Sums are started in the same order on all ranks, but may be started
  // between other calls that differ from rank to rank. Every element is added up in the order of
  // the ranks: its bits do not depend on what it travels with.
  [[nodiscard]] virtual Ticket start_sum(const SumRequest& request) = 0;
  // As start_sum, of GPU memory without a way through the host; the order of adding up is the
  // library's. Only where sums_on_device() is true. What the default stream does to the memory is
  // waited for; the caller waits before it goes on.
  [[nodiscard]] virtual Ticket start_device_sum(const DeviceSum&) {
    throw std::logic_error("This communicator has no sums on a device.");
  }
  [[nodiscard]] virtual bool sums_on_device() const { return false; }
  // Returns how long the sum took, in seconds from its start to its end, not to this call.
  virtual double wait(Ticket ticket) = 0;
  // Lets started sums move on; quick. Needed only where no thread of their own does that.
  virtual void advance() {}

  // From now on the ranks wait `seconds` at most for one that is missing, and leave with `exit_code`;
  // 0: as at the beginning. Only a watched communicator (watchdog.h) knows how. Not a collective.
  virtual void limit_waits(double /*seconds*/, int /*exit_code*/) {}
  // From a rank that works alone while others wait for it: it gets on and does not hang. As often
  // as it likes, and at least once within the watch's limit. Not a collective.
  virtual void tick() {}
  // For a rank that has failed and is going to say why and call abort(). Where several fail at once,
  // returns on the first; the others are ended meanwhile, or go on after some seconds.
  virtual void take_last_word() {}
  // Ends the processes of all ranks with this exit code. Not a collective.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

[[nodiscard]] std::unique_ptr<Communicator> make_local_communicator();

// Initialises MPI and finalises it in the destructor. Sums in the background are moved on by a
// thread (MPI's thread level MULTIPLE); TRAINYARD_PROGRESS=calls, or an MPI without that level: by
// the caller's calls alone.
[[nodiscard]] std::unique_ptr<Communicator> make_mpi_communicator(int* argc, char*** argv);

}  // namespace trainer
