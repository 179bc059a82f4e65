// SPDX-License-Identifier: Apache-2.0
#include "trainer/auto_batch.h"

#include <torch/utils.h>

#include <optional>
#include <vector>

#include "trainer/amp.h"
#include "trainer/layout.h"
#include "trainer/loss.h"
#include "trainer/model.h"

#ifdef TRAINYARD_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>
#endif

namespace trainer {

int fit_batch(std::span<const BatchMemory> measured, double bytes_available) {
  if (measured.size() < 2) return kAutoBatchDefault;
  double x = 0, y = 0;
  for (const BatchMemory& each : measured) {
    x += each.batch;
    y += each.bytes;
  }
  const auto count = static_cast<double>(measured.size());
  x /= count;
  y /= count;
  double along = 0, square = 0;
  for (const BatchMemory& each : measured) {
    along += (each.batch - x) * (each.bytes - y);
    square += (each.batch - x) * (each.batch - x);
  }
  const double bytes_an_image = square > 0 ? along / square : 0;
  if (bytes_an_image <= 0) return kAutoBatchDefault;
  const double batch = x + (bytes_available - y) / bytes_an_image;
  if (batch < 1 || batch >= kAutoBatchMax + 1) return kAutoBatchDefault;
  return static_cast<int>(batch);
}

#ifdef TRAINYARD_CUDA

namespace {

// What training holds beside a forward and a backward pass: the average, the optimiser's moments
// and the buffer that gradients are summed in, each as large as the weights.
constexpr double kCopiesOfWeights = 4;

// A forward and a backward pass as training makes them, on images of noise with one object each.
void try_step(DetectionModel& model, int batch, int imgsz, torch::Device device,
              std::optional<torch::ScalarType> amp) {
  const torch::Tensor noise = torch::randint(256, {batch, 3, imgsz, imgsz}, torch::kByte);
  torch::Tensor targets = torch::full({batch, 6}, 0.5F);
  targets.select(1, 0).copy_(torch::arange(batch));
  targets.select(1, 1).zero_();
  LossValue loss;
  {
    const Autocast autocast(device, amp);
    loss = detection_loss(model.forward(network_input(noise, device)), model.strides(), targets, {},
                          batch, of_this_rank_alone);
  }
  loss.total.backward();
  model.zero_grad();
}

}  // namespace

int find_batch(const contract::Architecture& architecture, int class_count, int imgsz, double share,
               int index, const std::string& amp) {
  namespace allocator = c10::cuda::CUDACachingAllocator;
  const auto device_index = static_cast<c10::DeviceIndex>(index);
  const torch::Device device(torch::kCUDA, device_index);
  std::size_t free_bytes = 0, total_bytes = 0;
  if (cudaSetDevice(index) != cudaSuccess ||
      cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) {
    return kAutoBatchDefault;
  }
  DetectionModel model(architecture, class_count);
  model.to(device);
  put_channels_last(model);
  std::vector<BatchMemory> measured;
  for (const int batch : {1, 2, 4, 8, 16}) {
    allocator::resetPeakStats(device_index);
    try {
      try_step(model, batch, imgsz, device, amp_type(amp, device));
    } catch (const c10::OutOfMemoryError&) {
      break;
    }
    const auto stats = allocator::getDeviceStats(device_index);
    measured.push_back({batch, static_cast<double>(stats.reserved_bytes.front().peak)});
  }
  allocator::emptyCache();
  double weights = 0;
  for (const torch::Tensor& parameter : model.parameters()) {
    weights += static_cast<double>(parameter.nbytes());
  }
  return fit_batch(measured, share * static_cast<double>(free_bytes) - kCopiesOfWeights * weights);
}

#else

int find_batch(const contract::Architecture&, int, int, double, int, const std::string&) {
  return kAutoBatchDefault;
}

#endif

}  // namespace trainer
