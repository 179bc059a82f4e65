// SPDX-License-Identifier: Apache-2.0
#include "trainer/norm_act_kernels.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

// The loops are written once, inlined into a plain and an AVX2 function, and chosen between at the
// first call. Elsewhere there is the plain one only.
#if defined(__x86_64__) && defined(__GNUC__)
#define TRAINYARD_AVX2 __attribute__((target("avx2,fma")))
#define TRAINYARD_INLINE inline __attribute__((always_inline))
#else
#define TRAINYARD_AVX2
#define TRAINYARD_INLINE inline
#endif

namespace trainer::kernels {

namespace {

// Rows whose sums are kept in float before they go to double.
constexpr std::size_t kRowsOfFloatSum = 128;

bool has_avx2() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool kHas = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return kHas;
#else
  return false;
#endif
}

// e^x to a relative 2e-7 for x in [-60, 60], clamped outside; a NaN stays one. Range reduction by
// ln 2 in two parts and the Taylor series of e^r, |r| <= ln 2 / 2, to r^7; without a branch, so that
// compilers make vectors of it. The bounds are far from where products become denormal, which would
// make every vector slow, and far beyond where a sigmoid still changes a float.
TRAINYARD_INLINE float exponential(float x) {
  constexpr float kLow = -60, kHigh = 60;
  constexpr float kLog2E = 1.44269504F;
  constexpr float kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kRounder = 12582912;  // 1.5 * 2^23: adding it rounds to whole numbers.
  constexpr int kMantissaBits = 23, kBias = 127;
  x = x < kLow ? kLow : x;
  x = x > kHigh ? kHigh : x;
  const float shifted = x * kLog2E + kRounder;
  const float whole = shifted - kRounder;
  const float r = (x - whole * kLn2High) - whole * kLn2Low;
  float series = 1.0F / 5040;
  series = series * r + 1.0F / 720;
  series = series * r + 1.0F / 120;
  series = series * r + 1.0F / 24;
  series = series * r + 1.0F / 6;
  series = series * r + 0.5F;
  series = series * r + 1.0F;
  series = series * r + 1.0F;
  const std::uint32_t power = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(kRounder);
  return series * std::bit_cast<float>((power + kBias) << kMantissaBits);
}

TRAINYARD_INLINE float sigmoid(float x) {
  return 1.0F / (1.0F + exponential(-x));
}

TRAINYARD_INLINE void moments_body(const float* __restrict x, std::size_t rows,
                                   std::size_t channels, const float* __restrict origin,
                                   float* __restrict sum, float* __restrict square) {
  for (std::size_t row = 0; row < rows; ++row, x += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      const float value = x[c] - origin[c];
      sum[c] += value;
      square[c] += value * value;
    }
  }
}

// In place, so that a single pointer is written to; a second body for two arrays.
TRAINYARD_INLINE void silu_in_place_body(float* __restrict x, std::size_t rows,
                                         std::size_t channels, const float* __restrict scale,
                                         const float* __restrict shift) {
  for (std::size_t row = 0; row < rows; ++row, x += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      const float z = scale[c] * x[c] + shift[c];
      x[c] = z * sigmoid(z);
    }
  }
}

TRAINYARD_INLINE void silu_body(const float* __restrict x, std::size_t rows, std::size_t channels,
                                const float* __restrict scale, const float* __restrict shift,
                                float* __restrict y) {
  for (std::size_t row = 0; row < rows; ++row, x += channels, y += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      const float z = scale[c] * x[c] + shift[c];
      y[c] = z * sigmoid(z);
    }
  }
}

TRAINYARD_INLINE void silu_backward_body(const float* __restrict x, const float* __restrict dy,
                                         std::size_t rows, std::size_t channels,
                                         const float* __restrict scale,
                                         const float* __restrict shift,
                                         const float* __restrict mean, float* __restrict dz,
                                         float* __restrict sum, float* __restrict product) {
  for (std::size_t row = 0; row < rows; ++row, x += channels, dy += channels, dz += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      const float z = scale[c] * x[c] + shift[c];
      const float s = sigmoid(z);
      const float gradient = dy[c] * (s * (1.0F + z * (1.0F - s)));
      dz[c] = gradient;
      sum[c] += gradient;
      product[c] += gradient * (x[c] - mean[c]);
    }
  }
}

TRAINYARD_INLINE void finish_body(const float* __restrict x, std::size_t rows,
                                  std::size_t channels, const float* __restrict scale,
                                  const float* __restrict slope, const float* __restrict offset,
                                  float* __restrict dz) {
  for (std::size_t row = 0; row < rows; ++row, x += channels, dz += channels) {
    for (std::size_t c = 0; c < channels; ++c) {
      dz[c] = scale[c] * dz[c] - (slope[c] * x[c] + offset[c]);
    }
  }
}

#define TRAINYARD_TWICE(name, parameters, arguments)             \
  void name##_plain parameters { name##_body arguments; }        \
  TRAINYARD_AVX2 void name##_avx2 parameters { name##_body arguments; }

TRAINYARD_TWICE(moments,
                (const float* __restrict x, std::size_t rows, std::size_t channels,
                 const float* __restrict origin, float* __restrict sum, float* __restrict square),
                (x, rows, channels, origin, sum, square))
TRAINYARD_TWICE(silu_in_place,
                (float* __restrict x, std::size_t rows, std::size_t channels,
                 const float* __restrict scale, const float* __restrict shift),
                (x, rows, channels, scale, shift))
TRAINYARD_TWICE(silu,
                (const float* __restrict x, std::size_t rows, std::size_t channels,
                 const float* __restrict scale, const float* __restrict shift, float* __restrict y),
                (x, rows, channels, scale, shift, y))
TRAINYARD_TWICE(silu_backward,
                (const float* __restrict x, const float* __restrict dy, std::size_t rows,
                 std::size_t channels, const float* __restrict scale,
                 const float* __restrict shift, const float* __restrict mean, float* __restrict dz,
                 float* __restrict sum, float* __restrict product),
                (x, dy, rows, channels, scale, shift, mean, dz, sum, product))
TRAINYARD_TWICE(finish,
                (const float* __restrict x, std::size_t rows, std::size_t channels,
                 const float* __restrict scale, const float* __restrict slope,
                 const float* __restrict offset, float* __restrict dz),
                (x, rows, channels, scale, slope, offset, dz))
#undef TRAINYARD_TWICE

// Calls block(first row, rows, float sums, float sums) for blocks of rows, and adds what they leave
// to the double sums.
template <typename Block>
void sum_in_blocks(std::size_t rows, std::size_t channels, double* first, double* second,
                   Block block) {
  std::vector<float> sums(2 * channels);
  for (std::size_t row = 0; row < rows; row += kRowsOfFloatSum) {
    std::fill(sums.begin(), sums.end(), 0.0F);
    block(row, std::min(kRowsOfFloatSum, rows - row), sums.data(), sums.data() + channels);
    for (std::size_t c = 0; c < channels; ++c) {
      first[c] += static_cast<double>(sums[c]);
      second[c] += static_cast<double>(sums[channels + c]);
    }
  }
}

}  // namespace

void add_moments(const float* x, std::size_t rows, std::size_t channels, const float* origin,
                 double* sums, double* squares) {
  const auto body = has_avx2() ? moments_avx2 : moments_plain;
  sum_in_blocks(rows, channels, sums, squares,
                [&](std::size_t row, std::size_t count, float* sum, float* square) {
                  body(x + row * channels, count, channels, origin, sum, square);
                });
}

void scale_shift_silu(const float* x, std::size_t rows, std::size_t channels, const float* scale,
                      const float* shift, float* y) {
  if (x == y) {
    (has_avx2() ? silu_in_place_avx2 : silu_in_place_plain)(y, rows, channels, scale, shift);
  } else {
    (has_avx2() ? silu_avx2 : silu_plain)(x, rows, channels, scale, shift, y);
  }
}

void silu_backward(const float* x, const float* dy, std::size_t rows, std::size_t channels,
                   const float* scale, const float* shift, const float* mean, float* dz,
                   double* sums, double* products) {
  const auto body = has_avx2() ? silu_backward_avx2 : silu_backward_plain;
  sum_in_blocks(rows, channels, sums, products,
                [&](std::size_t row, std::size_t count, float* sum, float* product) {
                  const std::size_t at = row * channels;
                  body(x + at, dy + at, count, channels, scale, shift, mean, dz + at, sum, product);
                });
}

void finish_backward(const float* x, std::size_t rows, std::size_t channels, const float* scale,
                     const float* slope, const float* offset, float* dz) {
  (has_avx2() ? finish_avx2 : finish_plain)(x, rows, channels, scale, slope, offset, dz);
}

}  // namespace trainer::kernels
