// SPDX-License-Identifier: Apache-2.0
#include "trainer/gradient_reducer.h"

#include <fmt/format.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/utils.h>
#include <zlib.h>

#include <algorithm>
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
  host_ = on_host(flat_);
  ticket_ = communicator_.start_sum({.values = floats_of(host_)});
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
  // Until it is known better: the last layers first.
  std::vector<std::int32_t> order(parameters_.size());
  std::iota(order.rbegin(), order.rend(), 0);
  lay_out(std::move(order));
  for (std::size_t i = 0; i < parameters_.size(); ++i) add_hook(i);
}

GradientReducer::~GradientReducer() {
  for (const Hook& hook : hooks_) hook.node->del_post_hook(hook.key);
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
  std::int64_t at = 0;
  for (const std::int32_t i : order_) {
    torch::Tensor& parameter = parameters_[static_cast<std::size_t>(i)];
    const torch::Tensor place = part_of(block, at, parameter);
    if (parameter.grad().defined()) place.copy_(parameter.grad());
    parameter.mutable_grad() = place;
    at += parameter.numel();
  }
  block_ = block;
  if (options_.wire == Wire::kBfloat16) residual_ = torch::zeros({length}, torch::kFloat);

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

void GradientReducer::start(Bucket& bucket) {
  torch::NoGradGuard no_grad;
  bucket.host = on_host(block_.narrow(0, bucket.offset, bucket.length));
  SumRequest request{.values = floats_of(bucket.host), .wire = options_.wire};
  if (residual_.defined()) {
    request.residual = floats_of(residual_.narrow(0, bucket.offset, bucket.length));
  }
  bucket.started = seconds_now();
  bucket.ticket = communicator_.start_sum(request);
}

void GradientReducer::reduce() {
  if (!block_.defined()) return;
  torch::NoGradGuard no_grad;
  const double waiting_since = seconds_now();
  if (!is_armed_) started_ = 0;
  is_armed_ = false;
  while (started_ < buckets_.size()) start(buckets_[started_++]);
  double under_way_until = 0;
  for (Bucket& bucket : buckets_) {
    const double ended = bucket.started + communicator_.wait(bucket.ticket);
    totals_.under_way_s += std::max(0.0, ended - std::max(bucket.started, under_way_until));
    under_way_until = std::max(under_way_until, ended);
    if (block_.is_cuda()) block_.narrow(0, bucket.offset, bucket.length).copy_(bucket.host);
    bucket.host.reset();
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
