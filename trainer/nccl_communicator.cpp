// SPDX-License-Identifier: Apache-2.0
//
// The only file that includes <nccl.h>. It needs the CUDA runtime and no torch: device memory comes
// as a pointer. The work that made it is on the default stream, as torch's is.
#include "trainer/nccl_communicator.h"

#include <cuda_runtime.h>
#include <fmt/format.h>
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>

namespace trainer {

namespace {

void check_cuda(cudaError_t status, const std::string& who, const char* call) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(fmt::format("{}: {}: {}", who, call, cudaGetErrorString(status)));
}

// Staging memory on the device for what comes from the host. Grows, never shrinks.
class Staging {
 public:
  ~Staging() {
    if (memory_ != nullptr) cudaFree(memory_);
  }
  void* at_least(std::size_t bytes, const std::string& who) {
    if (bytes <= size_) return memory_;
    if (memory_ != nullptr) cudaFree(memory_);
    memory_ = nullptr;
    size_ = 0;
    check_cuda(cudaMalloc(&memory_, bytes), who, "cudaMalloc");
    size_ = bytes;
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  std::size_t size_ = 0;
};

std::string nccl_version(int version) {
  constexpr int kMajor = 10'000, kMinor = 100;
  return fmt::format("{}.{}.{}", version / kMajor, version % kMajor / kMinor, version % kMinor);
}

std::string cuda_version(int version) {
  constexpr int kMajor = 1'000, kMinor = 10;
  return fmt::format("{}.{}", version / kMajor, version % kMajor / kMinor);
}

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(NcclRank own, const std::vector<std::byte>& id,
                   bool has_control)
      : own_(std::move(own)) {
    const int devices = nccl_device_count();
    if (devices == 0) throw std::runtime_error(who() + ": there is no GPU for NCCL.");
    device_ = own_.local_rank % devices;
    use_device();
    ncclUniqueId unique{};
    if (id.size() != sizeof unique) {
      throw std::runtime_error(
          fmt::format("{}: an id of {} bytes instead of {}.", who(), id.size(), sizeof unique));
    }
    std::memcpy(&unique, id.data(), sizeof unique);
    open(sums_lane_, unique);
    if (!has_control) open_calls();
  }

  ~NcclCommunicator() override {
    for (auto& [ticket, sum] : sums_) destroy(sum);
    close(calls_lane_);
    close(sums_lane_);
  }

  void set_control(std::unique_ptr<Communicator> control) { control_ = std::move(control); }

  int rank() const override { return own_.rank; }
  int size() const override { return own_.size; }
  int local_rank() const override { return own_.local_rank; }
  std::string host() const override { return own_.host; }

  void all_reduce_sum(std::span<float> values) override {
    if (control_) return control_->all_reduce_sum(values);
    all_reduce(values, ncclFloat32, ncclSum, "all_reduce_sum");
  }
  void all_reduce_sum(std::span<double> values) override {
    if (control_) return control_->all_reduce_sum(values);
    all_reduce(values, ncclFloat64, ncclSum, "all_reduce_sum");
  }
  void all_reduce_max(std::span<std::int64_t> values) override {
    if (control_) return control_->all_reduce_max(values);
    all_reduce(values, ncclInt64, ncclMax, "all_reduce_max");
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    if (control_) return control_->broadcast(bytes, root);
    if (bytes.empty()) return;
    void* memory = to_device(bytes);
    check(ncclBroadcast(memory, memory, bytes.size(), ncclUint8, root, calls_lane_.comm,
                        calls_lane_.stream),
          calls_lane_, "broadcast", bytes.size());
    from_device(memory, bytes, "broadcast");
  }

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> bytes) override {
    if (control_) return control_->all_gather(bytes);
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(own_.size), 0);
    sizes[static_cast<std::size_t>(own_.rank)] = static_cast<std::int64_t>(bytes.size());
    all_reduce_max(sizes);
    std::vector<std::vector<std::byte>> parts;
    for (int root = 0; root < own_.size; ++root) {
      std::vector<std::byte> part(static_cast<std::size_t>(sizes[static_cast<std::size_t>(root)]));
      if (root == own_.rank) part.assign(bytes.begin(), bytes.end());
      broadcast(part, root);
      parts.push_back(std::move(part));
    }
    return parts;
  }

  void barrier() override {
    if (control_) return control_->barrier();
    float nothing = 0;
    all_reduce_sum(std::span<float>(&nothing, 1));
  }

  // Of host memory: `control`'s, or at once.
  Ticket start_sum(const SumRequest& request) override {
    if (control_) return 2 * control_->start_sum(request);
    if (request.wire != Wire::kFloat32) {
      throw std::logic_error("Without MPI, host memory is summed as float32 alone.");
    }
    all_reduce_sum(request.values);
    return 2 * ++last_;
  }

  bool sums_on_device() const override { return true; }

  Ticket start_device_sum(const DeviceSum& request) override {
    use_device();  // A backward pass comes with a thread of its own.
    Sum sum{.bytes = request.count * (request.type == Wire::kFloat32 ? 4U : 2U)};
    for (cudaEvent_t* event : {&sum.ready}) {
      check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), who(), "cudaEventCreate");
    }
    for (cudaEvent_t* event : {&sum.begin, &sum.end}) {
      check_cuda(cudaEventCreate(event), who(), "cudaEventCreate");
    }
    check_cuda(cudaEventRecord(sum.ready, cudaStreamLegacy), who(), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(sums_lane_.stream, sum.ready, 0), who(), "cudaStreamWaitEvent");
    check_cuda(cudaEventRecord(sum.begin, sums_lane_.stream), who(), "cudaEventRecord");
    check(ncclAllReduce(request.values, request.values, request.count,
                        request.type == Wire::kFloat32 ? ncclFloat32 : ncclBfloat16, ncclSum,
                        sums_lane_.comm, sums_lane_.stream),
          sums_lane_, "sum", sum.bytes);
    check_cuda(cudaEventRecord(sum.end, sums_lane_.stream), who(), "cudaEventRecord");
    const Ticket ticket = 2 * ++last_ + 1;
    sums_.emplace(ticket, sum);
    return ticket;
  }

  double wait(Ticket ticket) override {
    if (ticket % 2 == 0) return control_ ? control_->wait(ticket / 2) : 0;
    const auto found = sums_.find(ticket);
    if (found == sums_.end()) throw std::logic_error("A sum that nobody started.");
    Sum sum = found->second;
    sums_.erase(found);
    await(sums_lane_, sum.end, "sum", sum.bytes);
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, sum.begin, sum.end), who(),
               "cudaEventElapsedTime");
    destroy(sum);
    return milliseconds / 1e3;
  }

  void advance() override {
    if (control_) control_->advance();
  }

  [[noreturn]] void abort(int exit_code) override {
    if (control_) control_->abort(exit_code);
    std::_Exit(exit_code);  // The launcher ends the others: NCCL has no word for it.
  }

 private:
  struct Lane {
    ncclComm_t comm = nullptr;
    cudaStream_t stream = nullptr;
  };
  struct Sum {
    std::size_t bytes = 0;
    cudaEvent_t ready = nullptr, begin = nullptr, end = nullptr;
  };

  static void destroy(Sum& sum) {
    for (cudaEvent_t event : {sum.ready, sum.begin, sum.end}) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }

  [[nodiscard]] std::string who() const {
    return fmt::format("rank {} ({})", own_.rank, own_.host);
  }
  void use_device() const { check_cuda(cudaSetDevice(device_), who(), "cudaSetDevice"); }
  void check(ncclResult_t status, const Lane& lane, const char* call, std::size_t bytes) const {
    if (status == ncclSuccess) return;
    throw std::runtime_error(fmt::format("{}: {} of {} bytes: {}: {}", who(), call, bytes,
                                         ncclGetErrorString(status), ncclGetLastError(lane.comm)));
  }

  void open(Lane& lane, const ncclUniqueId& id) {
    check_cuda(cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking), who(),
               "cudaStreamCreate");
    check(ncclCommInitRank(&lane.comm, own_.size, id, own_.rank), lane, "ncclCommInitRank", 0);
  }

  static void close(Lane& lane) {
    if (lane.comm != nullptr) ncclCommDestroy(lane.comm);
    if (lane.stream != nullptr) cudaStreamDestroy(lane.stream);
    lane = {};
  }

  // Its id travels on the other lane. ncclCommSplit would do, but not in every NCCL.
  void open_calls() {
    ncclUniqueId id{};
    if (own_.rank == 0) check(ncclGetUniqueId(&id), sums_lane_, "ncclGetUniqueId", 0);
    const std::span<std::byte> bytes = std::as_writable_bytes(std::span(&id, 1));
    calls_lane_ = sums_lane_;  // That broadcast() takes.
    broadcast(bytes, /*root=*/0);
    calls_lane_ = {};
    open(calls_lane_, id);
  }

  // Until what stands before the event is done. Looks at NCCL meanwhile: a rank that is gone shows
  // there and nowhere else.
  void await(const Lane& lane, cudaEvent_t event, const char* call, std::size_t bytes) const {
    constexpr std::chrono::microseconds kPause(20);
    for (;;) {
      const cudaError_t status = cudaEventQuery(event);
      if (status == cudaSuccess) return;
      if (status != cudaErrorNotReady) check_cuda(status, who(), call);
      // It stays this thread's last error, and whoever launches a kernel next would be blamed for it.
      static_cast<void>(cudaGetLastError());
      ncclResult_t problem = ncclSuccess;
      check(ncclCommGetAsyncError(lane.comm, &problem), lane, call, bytes);
      check(problem, lane, call, bytes);
      std::this_thread::sleep_for(kPause);
    }
  }

  void* to_device(std::span<const std::byte> bytes) {
    use_device();
    void* memory = staging_.at_least(bytes.size(), who());
    check_cuda(cudaMemcpyAsync(memory, bytes.data(), bytes.size(), cudaMemcpyHostToDevice,
                               calls_lane_.stream),
               who(), "cudaMemcpy");
    return memory;
  }

  void from_device(const void* memory, std::span<std::byte> bytes, const char* call) {
    check_cuda(cudaMemcpyAsync(bytes.data(), memory, bytes.size(), cudaMemcpyDeviceToHost,
                               calls_lane_.stream),
               who(), "cudaMemcpy");
    Sum done{.bytes = bytes.size()};
    check_cuda(cudaEventCreateWithFlags(&done.end, cudaEventDisableTiming), who(),
               "cudaEventCreate");
    check_cuda(cudaEventRecord(done.end, calls_lane_.stream), who(), "cudaEventRecord");
    await(calls_lane_, done.end, call, bytes.size());
    destroy(done);
  }

  template <typename T>
  void all_reduce(std::span<T> values, ncclDataType_t type, ncclRedOp_t op, const char* call) {
    if (values.empty()) return;
    void* memory = to_device(std::as_bytes(values));
    check(ncclAllReduce(memory, memory, values.size(), type, op, calls_lane_.comm,
                        calls_lane_.stream),
          calls_lane_, call, values.size_bytes());
    from_device(memory, std::as_writable_bytes(values), call);
  }

  NcclRank own_;
  std::unique_ptr<Communicator> control_;  // May be null.
  int device_ = 0;
  // Sums in the background and, without `control_`, the other calls: each rank may begin them in an
  // order of its own, which one communicator, or one stream, could not carry.
  Lane sums_lane_, calls_lane_;
  Staging staging_;
  // Tickets of device sums are odd, those of host memory even.
  Ticket last_ = 0;
  std::map<Ticket, Sum> sums_;
};

}  // namespace

std::string describe_nccl() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "NCCL of an unknown version";
  const int devices = nccl_device_count();
  return fmt::format("NCCL {}, {} device{}", nccl_version(version), devices,
                     devices == 1 ? "" : "s");
}

int nccl_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());  // It is said, and nobody else's error.
  return 0;
}

NcclDevice describe_nccl_device(int local_rank) {
  const int devices = nccl_device_count();
  if (devices == 0) return {};
  const int device = local_rank % devices;
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "NCCL", "cudaGetDeviceProperties");
  constexpr int kBusBytes = 32;
  char bus[kBusBytes] = {};
  check_cuda(cudaDeviceGetPCIBusId(bus, kBusBytes, device), "NCCL", "cudaDeviceGetPCIBusId");
  int nccl = 0, runtime = 0, driver = 0;
  static_cast<void>(ncclGetVersion(&nccl));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  static_cast<void>(cudaDriverGetVersion(&driver));
  return {.bus = bus,
          .name = properties.name,
          .memory_b = static_cast<std::int64_t>(properties.totalGlobalMem),
          .versions = fmt::format("NCCL {}, CUDA {}, driver for CUDA {}", nccl_version(nccl),
                                  cuda_version(runtime), cuda_version(driver))};
}

DeviceArray::DeviceArray(std::size_t bytes) : bytes_(bytes) {
  check_cuda(cudaMalloc(&memory_, bytes), "NCCL", "cudaMalloc");
}

DeviceArray::~DeviceArray() {
  cudaFree(memory_);
}

void DeviceArray::write(std::span<const std::byte> bytes) {
  check_cuda(cudaMemcpy(memory_, bytes.data(), std::min(bytes.size(), bytes_),
                        cudaMemcpyHostToDevice),
             "NCCL", "cudaMemcpy");
}

void DeviceArray::read(std::span<std::byte> bytes) const {
  check_cuda(cudaMemcpy(bytes.data(), memory_, std::min(bytes.size(), bytes_),
                        cudaMemcpyDeviceToHost),
             "NCCL", "cudaMemcpy");
}

std::vector<std::byte> make_nccl_id() {
  ncclUniqueId unique{};
  const ncclResult_t status = ncclGetUniqueId(&unique);
  if (status != ncclSuccess) {
    throw std::runtime_error(fmt::format("ncclGetUniqueId: {}", ncclGetErrorString(status)));
  }
  const auto* first = reinterpret_cast<const std::byte*>(&unique);
  return {first, first + sizeof unique};
}

std::unique_ptr<Communicator> make_nccl_communicator(const NcclRank& own,
                                                     const std::vector<std::byte>& id,
                                                     std::unique_ptr<Communicator>&& control) {
  auto made = std::make_unique<NcclCommunicator>(own, id, control != nullptr);
  made->set_control(std::move(control));
  return made;
}

}  // namespace trainer
