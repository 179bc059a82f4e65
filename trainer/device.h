// SPDX-License-Identifier: Apache-2.0
// trainer/device.h
//
// The device of a rank. CUDA's current device is a property of the thread: what does not name one
// (a stream, an event, memory of a library) is on it.
#pragma once

#include <torch/types.h>

#include <exception>

namespace trainer {

// The GPU of a rank's place on its host, modulo the GPUs that it sees, or the CPU where there is
// none. It becomes the current device of the calling thread.
[[nodiscard]] torch::Device take_device(int local_rank);

// Nothing for the CPU. Throws c10::Error where this libtorch has no such devices.
void make_current(const torch::Device& device);

// Whether an allocator gave up, of the host or of a device, as itself or inside a library of
// CUDA's.
[[nodiscard]] bool is_out_of_memory(const std::exception& error);

}  // namespace trainer
