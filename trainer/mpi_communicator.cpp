// SPDX-License-Identifier: Apache-2.0
//
// The only file that includes <mpi.h>. Errors come back as codes and rise as exceptions, with
// MPI's own text. Counts beyond an int are sent in pieces.
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "trainer/communicator.h"

namespace trainer {

namespace {

// Elements to a call: well below INT_MAX, and large enough that the number of calls does not
// matter.
constexpr std::size_t kCountMax = std::size_t{1} << 28;

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(int* argc, char*** argv) {
    // A rank that waits gives its core to the loader threads. Whoever set it otherwise is obeyed.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", /*overwrite=*/0);
    int provided = 0;
    check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread", 0);
    if (provided < MPI_THREAD_FUNNELED) {
      throw std::runtime_error(
          "MPI gives no thread level FUNNELED, which the loader threads need.");
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank", 0);
    check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size", 0);
    char name[MPI_MAX_PROCESSOR_NAME] = {};
    int length = 0;
    check(MPI_Get_processor_name(name, &length), "MPI_Get_processor_name", 0);
    host_.assign(name, static_cast<std::size_t>(length));
    MPI_Comm node = MPI_COMM_NULL;
    check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
          "MPI_Comm_split_type", 0);
    check(MPI_Comm_rank(node, &local_rank_), "MPI_Comm_rank", 0);
    check(MPI_Comm_free(&node), "MPI_Comm_free", 0);
  }

  ~MpiCommunicator() override { MPI_Finalize(); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  std::string host() const override { return host_; }

  void all_reduce_sum(std::span<float> values) override {
    all_reduce(values, MPI_FLOAT, MPI_SUM, "all_reduce_sum");
  }
  void all_reduce_sum(std::span<double> values) override {
    all_reduce(values, MPI_DOUBLE, MPI_SUM, "all_reduce_sum");
  }
  void all_reduce_max(std::span<std::int64_t> values) override {
    all_reduce(values, MPI_INT64_T, MPI_MAX, "all_reduce_max");
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    for (std::size_t at = 0; at < bytes.size(); at += kCountMax) {
      const std::size_t count = std::min(kCountMax, bytes.size() - at);
      check(MPI_Bcast(bytes.data() + at, static_cast<int>(count), MPI_BYTE, root, MPI_COMM_WORLD),
            "broadcast", count);
    }
  }

  // A broadcast from each rank in turn: simple, and what is gathered is small.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) override {
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(size_), 0);
    sizes[static_cast<std::size_t>(rank_)] = static_cast<std::int64_t>(bytes.size());
    all_reduce_max(sizes);
    std::vector<std::vector<std::byte>> parts;
    for (int root = 0; root < size_; ++root) {
      std::vector<std::byte> part(static_cast<std::size_t>(sizes[static_cast<std::size_t>(root)]));
      if (root == rank_) part.assign(bytes.begin(), bytes.end());
      broadcast(part, root);
      parts.push_back(std::move(part));
    }
    return parts;
  }

  void barrier() override { check(MPI_Barrier(MPI_COMM_WORLD), "barrier", 0); }

  [[noreturn]] void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  template <typename T>
  void all_reduce(std::span<T> values, MPI_Datatype type, MPI_Op op, const char* call) {
    for (std::size_t at = 0; at < values.size(); at += kCountMax) {
      const std::size_t count = std::min(kCountMax, values.size() - at);
      check(MPI_Allreduce(MPI_IN_PLACE, values.data() + at, static_cast<int>(count), type, op,
                          MPI_COMM_WORLD),
            call, count * sizeof(T));
    }
  }

  void check(int status, const char* call, std::size_t bytes) const {
    if (status == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(status, text, &length);
    throw std::runtime_error(
        fmt::format("rank {} ({}): {} of {} bytes: {}", rank_, host_, call, bytes, text));
  }

  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  std::string host_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(int* argc, char*** argv) {
  return std::make_unique<MpiCommunicator>(argc, argv);
}

}  // namespace trainer
