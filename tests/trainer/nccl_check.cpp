// SPDX-License-Identifier: GPL-3.0-or-later
//
// nccl_check: one rank of NCCL on the first GPU, without MPI and torch: sums of device memory and
// the calls that go through it must leave their values; several ranks are scripts/gpu-check's.
// Where there is no GPU it says so and making a communicator has to fail with that reason.
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/nccl_communicator.h"

namespace {

void expect(bool is_true, const char* what) {
  if (!is_true) throw std::runtime_error(what);
}

int without_device() {
  try {
    static_cast<void>(trainer::make_nccl_communicator({}, std::vector<std::byte>(128)));
  } catch (const std::runtime_error& error) {
    fmt::print("{}\n", error.what());
    return std::string(error.what()).find("no GPU") != std::string::npos ? 0 : 1;
  }
  return 1;
}

void with_device() {
  const auto ranks =
      trainer::make_nccl_communicator({.host = "here"}, trainer::make_nccl_id(), nullptr);
  std::vector<float> values(1000);
  std::iota(values.begin(), values.end(), 0.0F);
  const std::vector<float> before = values;
  ranks->all_reduce_sum(std::span<float>(values));
  expect(values == before, "all_reduce_sum");
  float* memory = nullptr;
  expect(cudaMalloc(&memory, values.size() * sizeof(float)) == cudaSuccess, "cudaMalloc");
  cudaMemcpy(memory, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice);
  const double seconds = ranks->wait(ranks->start_device_sum({.values = memory, .count = 1000}));
  cudaMemcpy(values.data(), memory, values.size() * sizeof(float), cudaMemcpyDeviceToHost);
  cudaFree(memory);
  expect(values == before && seconds >= 0, "start_device_sum");
  const std::string text = "whatever";
  const auto all = ranks->all_gather(std::as_bytes(std::span(text)));
  expect(all.size() == 1 && all.front().size() == text.size(), "all_gather");
  ranks->barrier();
}

}  // namespace

int main() {
  fmt::print("{}\n", trainer::describe_nccl());
  if (trainer::nccl_device_count() == 0) return without_device();
  try {
    with_device();
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
