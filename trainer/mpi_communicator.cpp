// SPDX-License-Identifier: Apache-2.0
//
// The only file that includes <mpi.h>. Errors come back as codes and rise as exceptions, with
// MPI's own text. Counts beyond an int are sent in pieces.
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "trainer/bfloat16.h"
#include "trainer/communicator.h"

namespace trainer {

namespace {

// Elements to a call: well below INT_MAX, and large enough that the number of calls does not
// matter.
constexpr std::size_t kCountMax = std::size_t{1} << 28;

void check_call(int status, const std::string& who, const char* call, std::size_t bytes) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw std::runtime_error(fmt::format("{}: {} of {} bytes: {}", who, call, bytes, text));
}

using Clock = std::chrono::steady_clock;

// How a rank waits: it looks without a pause for a moment, then it sleeps between its looks, and so
// gives its core away. Not by sched_yield, which MPI's own waiting may use: where more ranks wait
// than there are cores, Linux 6.18 let other processes, its own among them, starve for minutes.
class Patience {
 public:
  void wait() {
    constexpr std::chrono::microseconds kMoment(50), kPause(50);
    if (Clock::now() - since_ > kMoment) std::this_thread::sleep_for(kPause);
  }

 private:
  Clock::time_point since_ = Clock::now();
};

void add(std::span<const float> source, std::span<float> target) {
  for (std::size_t i = 0; i < target.size(); ++i) target[i] += source[i];
}

// One sum under way. The values are cut into as many chunks as there are ranks. First every rank
// sends chunk r to rank r, which adds up what it gets in the order of the ranks; then it sends the
// result to all. So each rank sends and receives 2 (n - 1) / n of the bytes, which is the least
// possible, and nothing is copied on the way but the received parts of the own chunk.
class RankSum {
 public:
  RankSum(const SumRequest& request, MPI_Comm comm, int rank, int size, int tag, std::string who)
      : request_(request),
        comm_(comm),
        rank_(rank),
        size_(size),
        tag_(tag),
        who_(std::move(who)),
        started_(Clock::now()) {
    if (is_half()) pack();
    scatter();
  }

  // True: the sums stand in the request's values.
  bool advance() {
    int is_done = 0;
    check_call(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &is_done,
                           MPI_STATUSES_IGNORE),
               who_, "sum", request_.values.size_bytes());
    if (is_done == 0) return false;
    if (!is_gathering_) {
      add_up();
      gather();
      return false;
    }
    if (is_half()) {
      for (std::size_t i = 0; i < halves_.size(); ++i) request_.values[i] = from_bfloat16(halves_[i]);
    }
    seconds_ = std::chrono::duration<double>(Clock::now() - started_).count();
    return true;
  }

  [[nodiscard]] double seconds() const { return seconds_; }

 private:
  [[nodiscard]] bool is_half() const { return request_.wire == Wire::kBfloat16; }
  [[nodiscard]] std::size_t begin_of(int rank) const {
    return request_.values.size() * static_cast<std::size_t>(rank) /
           static_cast<std::size_t>(size_);
  }
  [[nodiscard]] std::size_t size_of(int rank) const { return begin_of(rank + 1) - begin_of(rank); }

  void pack() {
    halves_.resize(request_.values.size());
    const bool has_residual = !request_.residual.empty();
    for (std::size_t i = 0; i < halves_.size(); ++i) {
      const float wanted = request_.values[i] + (has_residual ? request_.residual[i] : 0);
      halves_[i] = to_bfloat16(wanted);
      if (has_residual) request_.residual[i] = wanted - from_bfloat16(halves_[i]);
    }
  }

  void exchange(bool is_sent, void* memory, std::size_t count, int other) {
    MPI_Request request = MPI_REQUEST_NULL;
    const MPI_Datatype type = is_half() ? MPI_UINT16_T : MPI_FLOAT;
    const int tag = tag_ + (is_gathering_ ? 1 : 0);
    const auto n = static_cast<int>(count);
    const int status = is_sent ? MPI_Isend(memory, n, type, other, tag, comm_, &request)
                               : MPI_Irecv(memory, n, type, other, tag, comm_, &request);
    check_call(status, who_, "sum", count);
    requests_.push_back(request);
  }

  void* chunk(int rank) {
    return is_half() ? static_cast<void*>(halves_.data() + begin_of(rank))
                     : static_cast<void*>(request_.values.data() + begin_of(rank));
  }

  void* part(int rank) {
    const std::size_t at = size_of(rank_) * static_cast<std::size_t>(rank);
    return is_half() ? static_cast<void*>(half_parts_.data() + at)
                     : static_cast<void*>(parts_.data() + at);
  }

  void scatter() {
    const std::size_t all = size_of(rank_) * static_cast<std::size_t>(size_);
    parts_.resize(all);
    if (is_half()) half_parts_.resize(all);
    for (int other = 0; other < size_; ++other) {
      if (other != rank_) exchange(/*is_sent=*/false, part(other), size_of(rank_), other);
    }
    for (int other = 0; other < size_; ++other) {
      if (other != rank_) exchange(/*is_sent=*/true, chunk(other), size_of(other), other);
    }
  }

  void gather() {
    requests_.clear();
    is_gathering_ = true;
    for (int other = 0; other < size_; ++other) {
      if (other != rank_) exchange(/*is_sent=*/false, chunk(other), size_of(other), other);
    }
    for (int other = 0; other < size_; ++other) {
      if (other != rank_) exchange(/*is_sent=*/true, chunk(rank_), size_of(rank_), other);
    }
  }

  void add_up() {
    const std::size_t length = size_of(rank_);
    const std::span<float> own = request_.values.subspan(begin_of(rank_), length);
    const std::span<std::uint16_t> own_halves =
        is_half() ? std::span(halves_).subspan(begin_of(rank_), length)
                  : std::span<std::uint16_t>();
    const std::size_t own_at = length * static_cast<std::size_t>(rank_);
    if (is_half()) {
      std::copy(own_halves.begin(), own_halves.end(), half_parts_.data() + own_at);
      for (std::size_t i = 0; i < parts_.size(); ++i) parts_[i] = from_bfloat16(half_parts_[i]);
    } else if (rank_ > 0) {
      std::copy(own.begin(), own.end(), parts_.data() + own_at);
    }
    const std::span<float> sum = rank_ == 0 && !is_half() ? own : std::span(parts_).first(length);
    for (int rank = 1; rank < size_; ++rank) {
      add(std::span(parts_).subspan(length * static_cast<std::size_t>(rank), length), sum);
    }
    if (sum.data() != own.data()) std::copy(sum.begin(), sum.end(), own.begin());
    if (!is_half()) return;
    for (std::size_t i = 0; i < length; ++i) {
      own_halves[i] = to_bfloat16(own[i]);
      if (request_.residual.empty()) continue;
      request_.residual[begin_of(rank_) + i] += own[i] - from_bfloat16(own_halves[i]);
    }
  }

  SumRequest request_;
  MPI_Comm comm_;
  int rank_, size_, tag_;
  std::string who_;
  Clock::time_point started_;
  double seconds_ = 0;
  bool is_gathering_ = false;
  std::vector<MPI_Request> requests_;
  std::vector<float> parts_;  // All ranks' contributions to the own chunk.
  std::vector<std::uint16_t> halves_, half_parts_;
};

enum class Progress { kThread, kCalls };

// The sums under way, on a communicator of their own. Safe to be used beside other MPI calls.
class BackgroundSums {
 public:
  BackgroundSums(int rank, int size, std::string who, Progress progress)
      : rank_(rank), size_(size), who_(std::move(who)) {
    check_call(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), who_, "MPI_Comm_dup", 0);
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    if (progress == Progress::kThread && size > 1) thread_ = std::thread([this] { run(); });
  }

  ~BackgroundSums() {
    {
      const std::lock_guard lock(mutex_);
      is_ending_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
    MPI_Comm_free(&comm_);
  }

  Communicator::Ticket start(const SumRequest& request) {
    constexpr Communicator::Ticket kTags = 16'000;  // MPI promises 32767, and a sum needs two.
    const std::lock_guard lock(mutex_);
    const Communicator::Ticket ticket = ++last_ticket_;
    if (size_ == 1) {
      seconds_[ticket] = 0;
      return ticket;
    }
    const int tag = static_cast<int>(2 * (ticket % kTags));
    sums_.emplace_back(ticket, RankSum(request, comm_, rank_, size_, tag, who_));
    wake_.notify_all();
    return ticket;
  }

  double wait(Communicator::Ticket ticket) {
    for (Patience patience;; patience.wait()) {
      {
        const std::lock_guard lock(mutex_);
        advance_all();
        if (const auto found = seconds_.find(ticket); found != seconds_.end()) {
          const double seconds = found->second;
          seconds_.erase(found);
          return seconds;
        }
      }
    }
  }

  // Without waiting for the thread where it is at it already.
  void advance() {
    if (thread_.joinable()) return;
    const std::lock_guard lock(mutex_);
    advance_all();
  }

 private:
  void advance_all() {
    if (failure_) std::rethrow_exception(failure_);
    for (auto& [ticket, sum] : sums_) {
      if (!sum.advance()) continue;
      seconds_[ticket] = sum.seconds();
    }
    std::erase_if(sums_, [this](const auto& each) { return seconds_.contains(each.first); });
  }

  void run() {
    // Long enough that looking costs the computing thread of the same core next to nothing.
    constexpr std::chrono::microseconds kPause(100);
    std::unique_lock lock(mutex_);
    while (!is_ending_) {
      if (sums_.empty() || failure_) {
        wake_.wait(lock);
        continue;
      }
      try {
        advance_all();
      } catch (const std::exception&) {
        failure_ = std::current_exception();
      }
      lock.unlock();
      std::this_thread::sleep_for(kPause);
      lock.lock();
    }
  }

  int rank_, size_;
  std::string who_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::mutex mutex_;  // Guards what follows.
  std::condition_variable wake_;
  bool is_ending_ = false;
  Communicator::Ticket last_ticket_ = 0;
  std::deque<std::pair<Communicator::Ticket, RankSum>> sums_;
  std::map<Communicator::Ticket, double> seconds_;  // Of those that are done and not waited for.
  std::exception_ptr failure_;
  std::thread thread_;
};

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(int* argc, char*** argv) {
    // See Patience. Whoever set it otherwise is obeyed.
    setenv("OMPI_MCA_mpi_yield_when_idle", "0", /*overwrite=*/0);
    int provided = 0;
    check(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread", 0);
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
    // Slurm's name of the node is what people can leave out.
    if (const char* node = std::getenv("SLURMD_NODENAME")) host_ = node;
    MPI_Comm node = MPI_COMM_NULL;
    check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
          "MPI_Comm_split_type", 0);
    check(MPI_Comm_rank(node, &local_rank_), "MPI_Comm_rank", 0);
    check(MPI_Comm_free(&node), "MPI_Comm_free", 0);
    const char* wanted = std::getenv("TRAINYARD_PROGRESS");
    const bool by_calls = wanted != nullptr && std::string_view(wanted) == "calls";
    sums_.emplace(rank_, size_, who(),
                  by_calls || provided < MPI_THREAD_MULTIPLE ? Progress::kCalls : Progress::kThread);
  }

  ~MpiCommunicator() override {
    sums_.reset();
    MPI_Finalize();
  }

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
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Ibcast(bytes.data() + at, static_cast<int>(count), MPI_BYTE, root, MPI_COMM_WORLD,
                       &request),
            "broadcast", count);
      finish(request, "broadcast", count);
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

  void barrier() override {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(MPI_COMM_WORLD, &request), "barrier", 0);
    finish(request, "barrier", 0);
  }

  Ticket start_sum(const SumRequest& request) override { return sums_->start(request); }
  double wait(Ticket ticket) override { return sums_->wait(ticket); }
  void advance() override { sums_->advance(); }

  [[noreturn]] void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  template <typename T>
  void all_reduce(std::span<T> values, MPI_Datatype type, MPI_Op op, const char* call) {
    for (std::size_t at = 0; at < values.size(); at += kCountMax) {
      const std::size_t count = std::min(kCountMax, values.size() - at);
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Iallreduce(MPI_IN_PLACE, values.data() + at, static_cast<int>(count), type, op,
                           MPI_COMM_WORLD, &request),
            call, count * sizeof(T));
      finish(request, call, count * sizeof(T));
    }
  }

  void finish(MPI_Request request, const char* call, std::size_t bytes) const {
    int is_done = 0;
    for (Patience patience;; patience.wait()) {
      check(MPI_Test(&request, &is_done, MPI_STATUS_IGNORE), call, bytes);
      if (is_done != 0) return;
    }
  }

  [[nodiscard]] std::string who() const { return fmt::format("rank {} ({})", rank_, host_); }
  void check(int status, const char* call, std::size_t bytes) const {
    check_call(status, who(), call, bytes);
  }

  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  std::string host_;
  std::optional<BackgroundSums> sums_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(int* argc, char*** argv) {
  return std::make_unique<MpiCommunicator>(argc, argv);
}

}  // namespace trainer
