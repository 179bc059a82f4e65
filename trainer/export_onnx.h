// SPDX-License-Identifier: Apache-2.0
// trainer/export_onnx.h
//
// The recorded model as ONNX: one node, or a few, for each of torch's operators. Private.
#pragma once

#include "trainer/export.h"
#include "trainer/export_trace.h"
#include "trainer/onnx_file.h"

namespace trainer {

// Adds input "images", output "output0", and what lies between; batch norm becomes part of the
// convolution before it. Throws std::runtime_error naming an operator that it does not know.
void add_graph(OnnxFile& file, const TracedModel& traced, BatchSize batch_size);

}  // namespace trainer
