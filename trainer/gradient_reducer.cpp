// SPDX-License-Identifier: Apache-2.0
#include "trainer/gradient_reducer.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/utils.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>

namespace trainer {

namespace {

constexpr std::size_t kLastBucketBytesMax = std::size_t{1} << 20;

// The tensor's values in host memory, contiguous; a view where it already is that.
torch::Tensor on_host(const torch::Tensor& tensor) {
  return tensor.detach().to(torch::kCPU).contiguous();
}

std::span<std::byte> bytes_of(const torch::Tensor& contiguous) {
  return {static_cast<std::byte*>(contiguous.data_ptr()), contiguous.nbytes()};
}

std::span<float> floats_of(const torch::Tensor& contiguous) {
  return {contiguous.data_ptr<float>(), static_cast<std::size_t>(contiguous.numel())};
}

// Of SumRequest.
std::shared_ptr<const void> memory_of(std::vector<torch::Tensor> tensors) {
  return std::make_shared<const std::vector<torch::Tensor>>(std::move(tensors));
}

DeviceSum device_sum_of(const torch::Tensor& contiguous) {
  return {.values = contiguous.data_ptr(),
          .count = static_cast<std::size_t>(contiguous.numel()),
          .type = contiguous.scalar_type() == torch::kFloat ? Wire::kFloat32 : Wire::kBfloat16};
}

// A tensor of the sizes and strides of `like` in the memory of `block`. Not a view in autograd's
// sense: those may not be changed in place everywhere.
torch::Tensor part_of(const torch::Tensor& block, std::int64_t offset, const torch::Tensor& like) {
  if (!like.is_non_overlapping_and_dense()) {
    throw std::logic_error("A tensor with gaps has no place in a block.");
  }
  torch::Tensor part = torch::empty({0}, block.options());
  part.set_(block.storage(), offset, like.sizes(), like.strides());
  return part;
}

// For measuring alone: nothing is decided by it.
double seconds_now() {
  using Seconds = std::chrono::duration<double>;
  return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

FlatSum::FlatSum(Communicator& communicator, const std::vector<torch::Tensor>& tensors)
    : communicator_(communicator) {
  if (communicator_.size() == 1 || tensors.empty()) return;
  torch::NoGradGuard no_grad;
  std::int64_t length = 0;
  for (const torch::Tensor& tensor : tensors) length += tensor.numel();
  flat_ = torch::empty({length}, tensors.front().options().requires_grad(false));
  std::int64_t at = 0;
  for (torch::Tensor tensor : tensors) {
    const torch::Tensor place = part_of(flat_, at, tensor);
    place.copy_(tensor);
    tensor.set_data(place);
    at += tensor.numel();
  }
}

void FlatSum::start() {
  if (!flat_.defined()) return;
  if (flat_.is_cuda() && communicator_.sums_on_device()) {
    host_ = flat_;
    ticket_ = communicator_.start_device_sum(device_sum_of(flat_));
  } else {
    host_ = on_host(flat_);
    ticket_ = communicator_.start_sum({.values = floats_of(host_), .memory = memory_of({host_})});
  }
  is_under_way_ = true;
}

void FlatSum::finish_mean() {
  if (!is_under_way_) return;
  is_under_way_ = false;
  communicator_.wait(ticket_);
  torch::NoGradGuard no_grad;
  if (host_.data_ptr() != flat_.data_ptr()) flat_.copy_(host_);
  flat_.mul_(1.0 / communicator_.size());
}

GradientReducer::GradientReducer(Communicator& communicator, std::vector<torch::Tensor> parameters,
                                 const Options& options)
    : communicator_(communicator), parameters_(std::move(parameters)), options_(options) {
  if (communicator_.size() == 1 || parameters_.empty()) return;
  lay_out(last_layers_first());
  for (std::size_t i = 0; i < parameters_.size(); ++i) add_hook(i);
}

GradientReducer::~GradientReducer() {
  for (const Hook& hook : hooks_) hook.node->del_post_hook(hook.key);
}

// Of the gradients, until it is known better.
std::vector<std::int32_t> GradientReducer::last_layers_first() const {
  std::vector<std::int32_t> order(parameters_.size());
  std::iota(order.rbegin(), order.rend(), 0);
  return order;
}

// Fixes the place of each gradient in the block, and the buckets, which are counted from the end.
void GradientReducer::lay_out(std::vector<std::int32_t> order) {
  torch::NoGradGuard no_grad;
  order_ = std::move(order);
  bucket_of_.resize(parameters_.size());
  std::int64_t length = 0;
  for (const torch::Tensor& parameter : parameters_) length += parameter.numel();
  const torch::Tensor block =
      torch::zeros({length}, parameters_.front().options().requires_grad(false));
  torch::Tensor residual;
  if (options_.wire == Wire::kBfloat16) {
    residual = torch::zeros({length}, is_on_device() ? block.options() : torch::kFloat);
  }
  std::int64_t at = 0;
  offset_of_.resize(parameters_.size());
  for (const std::int32_t i : order_) {
    torch::Tensor& parameter = parameters_[static_cast<std::size_t>(i)];
    const torch::Tensor place = part_of(block, at, parameter);
    if (parameter.grad().defined()) place.copy_(parameter.grad());
    parameter.mutable_grad() = place;
    std::int64_t& offset = offset_of_[static_cast<std::size_t>(i)];
    if (residual_.defined()) {  // It moves along.
      residual.narrow(0, at, parameter.numel())
          .copy_(residual_.narrow(0, offset, parameter.numel()));
    }
    offset = at;
    at += parameter.numel();
  }
  block_ = block;
  residual_ = residual;

  buckets_.clear();
  std::size_t bytes = 0;
  for (std::size_t position = order_.size(); position-- > 0;) {
    const torch::Tensor& parameter = parameters_[static_cast<std::size_t>(order_[position])];
    const std::size_t bytes_max = buckets_.size() > 1
                                      ? options_.bucket_bytes_max
                                      : std::min(options_.bucket_bytes_max, kLastBucketBytesMax);
    if (buckets_.empty() || bytes + parameter.nbytes() > bytes_max) {
      buckets_.emplace_back().last = position + 1;
      bytes = 0;
    }
    Bucket& bucket = buckets_.back();
    bucket.first = position;
    bucket.length += parameter.numel();
    bytes += parameter.nbytes();
  }
  std::reverse(buckets_.begin(), buckets_.end());
  at = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    buckets_[i].offset = at;
    at += buckets_[i].length;
    for (std::size_t position = buckets_[i].first; position < buckets_[i].last; ++position) {
      bucket_of_[static_cast<std::size_t>(order_[position])] = i;
    }
  }
}

void GradientReducer::add_hook(std::size_t parameter) {
  using torch::autograd::variable_list;
  const auto node = torch::autograd::impl::grad_accumulator(parameters_[parameter]);
  auto hook = std::make_unique<torch::autograd::utils::LambdaPostHook>(
      [this, parameter](const variable_list& outputs, const variable_list&) {
        on_gradient(parameter);
        return outputs;
      });
  hooks_.push_back({node, node->add_post_hook(std::move(hook))});
}

void GradientReducer::on_gradient(std::size_t parameter) {
  if (!is_learnt_) seen_.push_back(static_cast<std::int32_t>(parameter));
  if (!is_armed_) return;
  --buckets_[bucket_of_[parameter]].missing;
  while (started_ < buckets_.size() && buckets_[started_].missing == 0) start(buckets_[started_++]);
  communicator_.advance();
}

void GradientReducer::arm() {
  if (!block_.defined()) return;
  for (Bucket& bucket : buckets_) bucket.missing = bucket.last - bucket.first;
  started_ = 0;
  is_armed_ = true;
}

bool GradientReducer::is_on_device() const {
  return parameters_.front().is_cuda() && communicator_.sums_on_device();
}

void GradientReducer::start(Bucket& bucket) {
  torch::NoGradGuard no_grad;
  const torch::Tensor own = block_.narrow(0, bucket.offset, bucket.length);
  torch::Tensor residual;
  if (residual_.defined()) residual = residual_.narrow(0, bucket.offset, bucket.length);
  bucket.started = seconds_now();
  if (is_on_device()) {
    bucket.travelling = own;
    if (residual.defined()) {
      const torch::Tensor wanted = own + residual;
      bucket.travelling = wanted.to(torch::kBFloat16);
      residual.copy_(wanted - bucket.travelling);
    }
    bucket.ticket = communicator_.start_device_sum(device_sum_of(bucket.travelling));
    return;
  }
  bucket.travelling = on_host(own);
  SumRequest request{.values = floats_of(bucket.travelling), .wire = options_.wire};
  if (residual.defined()) request.residual = floats_of(residual);
  request.memory = memory_of({bucket.travelling, residual});
  bucket.ticket = communicator_.start_sum(request);
}

void finish_stream(const torch::Device& device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
}

void GradientReducer::reduce() {
  if (!block_.defined()) return;
  torch::NoGradGuard no_grad;
  double waiting_since = seconds_now();
  if (!is_armed_) started_ = 0;
  is_armed_ = false;
  while (started_ < buckets_.size()) start(buckets_[started_++]);
  if (is_on_device()) {
    // What is left of the backward pass hides the sums still: it is no waiting for them.
    finish_stream(block_.device());
    waiting_since = seconds_now();
  }
  double under_way_until = 0;
  for (Bucket& bucket : buckets_) {
    const double seconds = communicator_.wait(bucket.ticket);
    if (is_on_device()) {
      totals_.under_way_s += seconds;  // One after the other, and begun later than they were started.
    } else {
      const double ended = bucket.started + seconds;
      totals_.under_way_s += std::max(0.0, ended - std::max(bucket.started, under_way_until));
      under_way_until = std::max(under_way_until, ended);
    }
    const torch::Tensor own = block_.narrow(0, bucket.offset, bucket.length);
    if (bucket.travelling.data_ptr() != own.data_ptr()) own.copy_(bucket.travelling);
    bucket.travelling.reset();
  }
  totals_.exposed_s += seconds_now() - waiting_since;
  ++totals_.steps;
  totals_.sums += static_cast<std::int64_t>(buckets_.size());
  totals_.sum_bytes += static_cast<double>(block_.nbytes());
  if (!is_learnt_) learn();
}

// Every rank comes here at the same step. What a backward pass left out goes to the end.
void GradientReducer::learn() {
  is_learnt_ = true;
  std::vector<std::int32_t> order;
  std::vector<bool> is_placed(parameters_.size(), false);
  const auto place = [&](std::int32_t parameter) {
    if (is_placed[static_cast<std::size_t>(parameter)]) return;
    is_placed[static_cast<std::size_t>(parameter)] = true;
    order.push_back(parameter);
  };
  for (const std::int32_t parameter : seen_) place(parameter);
  for (const std::int32_t parameter : order_) place(parameter);
  communicator_.broadcast(std::as_writable_bytes(std::span(order)), /*root=*/0);
  lay_out(std::move(order));
  seen_.clear();
}

std::vector<std::pair<std::string, torch::Tensor>> GradientReducer::wire_state() {
  if (!residual_.defined() || !is_learnt_) return {};
  std::vector<std::pair<std::string, torch::Tensor>> state;
  const bool is_first = communicator_.rank() == 0;
  if (is_first) {
    state.emplace_back("order", torch::tensor(at::ArrayRef<std::int32_t>(order_), torch::kInt32));
  }
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    torch::Tensor residual = on_host(residual_).clone();
    communicator_.broadcast(bytes_of(residual), rank);
    if (is_first) state.emplace_back("residual." + std::to_string(rank), residual);
  }
  return state;
}

void GradientReducer::load_wire_state(
    const std::vector<std::pair<std::string, torch::Tensor>>& state) {
  if (!residual_.defined()) return;
  torch::NoGradGuard no_grad;
  // Rank 0: is it a state of these parameters, and of how many ranks?
  std::vector<std::int32_t> order(parameters_.size(), 0);
  std::int64_t saved = 0;
  if (communicator_.rank() == 0 && !state.empty() && state.front().first == "order" &&
      state.front().second.numel() == static_cast<std::int64_t>(order.size())) {
    const torch::Tensor& first = state.front().second;
    std::copy_n(first.data_ptr<std::int32_t>(), order.size(), order.begin());
    std::vector<std::int32_t> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    bool fits = true;
    for (std::size_t i = 0; i < sorted.size(); ++i) fits = fits && sorted[i] == static_cast<int>(i);
    for (std::size_t i = 1; i < state.size(); ++i) {
      fits = fits && state[i].second.numel() == residual_.numel();
    }
    if (fits) saved = static_cast<std::int64_t>(state.size()) - 1;
  }
  communicator_.all_reduce_max(std::span<std::int64_t>(&saved, 1));
  // Nothing of what is undone stays. Where a gradient lies decides which rank adds it up, and what
  // that rank rounds.
  if (saved == 0) {
    residual_.zero_();
    lay_out(last_layers_first());
    is_learnt_ = false;
    seen_.clear();
    return;
  }
  communicator_.broadcast(std::as_writable_bytes(std::span(order)), /*root=*/0);
  lay_out(std::move(order));
  is_learnt_ = true;
  seen_.clear();
  residual_.zero_();
  const bool is_same_count = saved == communicator_.size();
  for (std::int64_t rank = 0; rank < saved; ++rank) {
    torch::Tensor residual = torch::zeros({residual_.numel()}, torch::kFloat);
    if (communicator_.rank() == 0) {
      residual.copy_(state.at(static_cast<std::size_t>(rank) + 1).second);
    }
    if (is_same_count) communicator_.broadcast(bytes_of(residual), /*root=*/0);
    if (communicator_.rank() == (is_same_count ? rank : 0)) {
      residual_.add_(residual.to(residual_.device()));
    }
  }
}

torch::Tensor sum_of_ranks(Communicator& communicator, const torch::Tensor& own) {
  if (communicator.size() == 1) return own;
  // Widened on the CPU: a device without memory shall not keep this rank from the sum.
  const torch::Tensor sum = own.detach().to(torch::kCPU).to(
      torch::kDouble, /*non_blocking=*/false, /*copy=*/true);
  communicator.all_reduce_sum(
      std::span(sum.data_ptr<double>(), static_cast<std::size_t>(sum.numel())));
  return sum;
}

void broadcast_tensors(Communicator& communicator, const std::vector<torch::Tensor>& tensors) {
  if (communicator.size() == 1) return;
  torch::NoGradGuard no_grad;
  // All in one message: a network has hundreds of small tensors.
  std::vector<std::byte> packed;
  for (const torch::Tensor& tensor : tensors) {
    const torch::Tensor values = on_host(tensor);
    const std::span<std::byte> bytes = bytes_of(values);
    packed.insert(packed.end(), bytes.begin(), bytes.end());
  }
  // A rank of another model would write beside its tensors.
  const auto own_bytes = static_cast<std::int64_t>(packed.size());
  std::array<std::int64_t, 2> extremes = {own_bytes, -own_bytes};
  communicator.all_reduce_max(extremes);
  if (extremes[0] != -extremes[1]) {
    throw std::runtime_error(fmt::format(
        "The replicas differ: {} tensors of {} bytes on rank {}, from {} to {} bytes on others.",
        tensors.size(), own_bytes, communicator.rank(), -extremes[1], extremes[0]));
  }
  communicator.broadcast(packed, /*root=*/0);
  if (communicator.rank() == 0) return;
  std::size_t at = 0;
  for (const torch::Tensor& tensor : tensors) {
    const torch::Tensor values = torch::empty(tensor.sizes(), tensor.scalar_type());
    const std::span<std::byte> bytes = bytes_of(values);
    std::memcpy(bytes.data(), packed.data() + at, bytes.size());
    tensor.detach().copy_(values);
    at += bytes.size();
  }
}

std::uint32_t checksum(const std::vector<torch::Tensor>& tensors) {
  uLong crc = crc32_z(0, nullptr, 0);
  for (const torch::Tensor& tensor : tensors) {
    const torch::Tensor values = on_host(tensor);
    const std::span<std::byte> bytes = bytes_of(values);
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  }
  return static_cast<std::uint32_t>(crc);
}

void check_replicas(Communicator& communicator, const std::vector<torch::Tensor>& tensors) {
  if (communicator.size() == 1) return;
  const std::uint32_t mine = checksum(tensors);
  const std::vector<std::vector<std::byte>> all =
      communicator.all_gather(std::as_bytes(std::span(&mine, 1)));
  std::uint32_t first = 0;
  std::memcpy(&first, all.front().data(), sizeof first);
  std::string different;
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    std::uint32_t other = 0;
    std::memcpy(&other, all[rank].data(), sizeof other);
    if (other != first) different += fmt::format(" rank {}: {:08x}", rank, other);
  }
  if (!different.empty()) {
    throw std::runtime_error(
        fmt::format("The replicas differ: checksum of rank 0: {:08x},{}.", first, different));
  }
}

}  // namespace trainer
