// SPDX-License-Identifier: Apache-2.0
// trainer/norm_act_kernels.h
//
// Loops of norm_act.h over float32 [rows, channels], channels adjacent in memory. No torch here:
// they are compiled with all optimisation, once for any x86-64 and once for AVX2.
#pragma once

#include <cstddef>

namespace trainer::kernels {

// sums[c] += sum of (x - origin[c]); squares[c] += sum of its squares. An origin near the mean keeps
// the difference of the two free of cancellation.
void add_moments(const float* x, std::size_t rows, std::size_t channels, const float* origin,
                 double* sums, double* squares);

// y = silu(scale[c] * x + shift[c]); x and y are the same or do not overlap.
void scale_shift_silu(const float* x, std::size_t rows, std::size_t channels, const float* scale,
                      const float* shift, float* y);

// The gradient of scale_shift_silu by its argument scale * x + shift, into dz; with the sums over
// the rows that batch norm needs: sums[c] += sum of dz, products[c] += sum of dz * (x - mean[c]).
void silu_backward(const float* x, const float* dy, std::size_t rows, std::size_t channels,
                   const float* scale, const float* shift, const float* mean, float* dz,
                   double* sums, double* products);

// dz = scale[c] * dz - slope[c] * x - offset[c], in place.
void finish_backward(const float* x, std::size_t rows, std::size_t channels, const float* scale,
                     const float* slope, const float* offset, float* dz);

}  // namespace trainer::kernels
