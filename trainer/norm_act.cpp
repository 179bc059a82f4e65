// SPDX-License-Identifier: Apache-2.0
#include "trainer/norm_act.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "trainer/batch_moments.h"
#include "trainer/norm_act_kernels.h"

namespace trainer {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// float32 [B, C, H, W] with the channels last in memory as rows of channels. They are cut into
// parts by their number alone, so that sums do not depend on the number of threads.
struct Rows {
  explicit Rows(const torch::Tensor& x)
      : channels(static_cast<std::size_t>(x.size(1))),
        count(static_cast<std::size_t>(x.numel()) / std::max<std::size_t>(1, channels)) {
    constexpr std::size_t kPartElements = 1 << 16;
    constexpr std::size_t kPartsMax = 64;
    parts = std::clamp<std::size_t>(count * channels / kPartElements, 1, kPartsMax);
  }

  // Calls part(index, first row, rows), several at a time.
  template <typename Part>
  void each_part(Part part) const {
    at::parallel_for(0, static_cast<std::int64_t>(parts), 1, [&](std::int64_t low, std::int64_t high) {
      for (auto i = static_cast<std::size_t>(low); i < static_cast<std::size_t>(high); ++i) {
        const std::size_t first = count * i / parts;
        part(i, first, count * (i + 1) / parts - first);
      }
    });
  }

  // Calls part(first row, rows, sums, sums) and gives the two sums over all parts.
  template <typename Part>
  std::vector<double> sum(Part part) const {
    std::vector<double> of_parts(parts * 2 * channels, 0.0);
    each_part([&](std::size_t i, std::size_t first, std::size_t rows) {
      double* sums = of_parts.data() + i * 2 * channels;
      part(first, rows, sums, sums + channels);
    });
    for (std::size_t i = 1; i < parts; ++i) {
      for (std::size_t c = 0; c < 2 * channels; ++c) of_parts[c] += of_parts[i * 2 * channels + c];
    }
    of_parts.resize(2 * channels);
    return of_parts;
  }

  std::size_t channels, count, parts = 1;
};

torch::Tensor channels_last(const torch::Tensor& x) {
  return x.contiguous(torch::MemoryFormat::ChannelsLast);
}

torch::Tensor like(const torch::Tensor& x) {
  return torch::empty_like(x, torch::MemoryFormat::ChannelsLast);
}

// What is done to each channel: silu(scale * x + shift).
struct Affine {
  Affine(const torch::Tensor& weight, const torch::Tensor& bias, const torch::Tensor& mean,
         const torch::Tensor& inverse_deviation)
      : scale(weight * inverse_deviation), shift(bias - mean * scale) {}
  torch::Tensor scale, shift;
};

torch::Tensor write_silu(const torch::Tensor& x, const Affine& affine, torch::Tensor y) {
  const Rows rows(x);
  const float* from = x.data_ptr<float>();
  auto* to = y.data_ptr<float>();
  const float *scale = affine.scale.data_ptr<float>(), *shift = affine.shift.data_ptr<float>();
  rows.each_part([&](std::size_t, std::size_t first, std::size_t count) {
    const std::size_t at = first * rows.channels;
    kernels::scale_shift_silu(from + at, count, rows.channels, scale, shift, to + at);
  });
  return y;
}

BatchMoments moments_of(const torch::Tensor& x) {
  const Rows rows(x);
  const float* values = x.data_ptr<float>();  // Its first row is the origin.
  const std::vector<double> sums =
      rows.sum([&](std::size_t first, std::size_t count, double* sum, double* square) {
        kernels::add_moments(values + first * rows.channels, count, rows.channels, values, sum,
                             square);
      });
  BatchMoments moments{static_cast<double>(rows.count), std::vector<double>(rows.channels),
                       std::vector<double>(rows.channels)};
  for (std::size_t c = 0; c < rows.channels; ++c) {
    const double shifted = sums[c] / moments.count;
    moments.mean[c] = shifted + values[c];
    moments.variance[c] =
        std::max(0.0, sums[rows.channels + c] / moments.count - shifted * shifted);
  }
  return moments;
}

class NormAct : public torch::autograd::Function<NormAct> {
 public:
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& x,
                               const torch::Tensor& weight, const torch::Tensor& bias,
                               const torch::Tensor& mean, const torch::Tensor& inverse_deviation,
                               double count, std::int64_t ranks) {
    context->save_for_backward({x, weight, bias, mean, inverse_deviation});
    context->saved_data["count"] = count;
    context->saved_data["ranks"] = ranks;
    return write_silu(x, Affine(weight, bias, mean, inverse_deviation), like(x));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const torch::Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &mean = saved[3],
                        &inverse_deviation = saved[4];
    const Affine affine(weight, bias, mean, inverse_deviation);
    const torch::Tensor dy = channels_last(gradients[0]);
    torch::Tensor dx = like(x);
    const Rows rows(x);
    const float *values = x.data_ptr<float>(), *slopes = dy.data_ptr<float>();
    const float *scale = affine.scale.data_ptr<float>(), *shift = affine.shift.data_ptr<float>(),
                *means = mean.data_ptr<float>(), *inverse = inverse_deviation.data_ptr<float>();
    auto* out = dx.data_ptr<float>();
    std::vector<double> sums =
        rows.sum([&](std::size_t first, std::size_t count, double* sum, double* product) {
          const std::size_t at = first * rows.channels;
          kernels::silu_backward(values + at, slopes + at, count, rows.channels, scale, shift,
                                 means, out + at, sum, product);
        });

    // Of this rank: the gradients are summed over the ranks later.
    torch::Tensor weight_gradient = torch::empty_like(weight), bias_gradient = torch::empty_like(bias);
    for (std::size_t c = 0; c < rows.channels; ++c) {
      bias_gradient.data_ptr<float>()[c] = static_cast<float>(sums[c]);
      weight_gradient.data_ptr<float>()[c] =
          static_cast<float>(sums[rows.channels + c] * inverse[c]);
    }
    const double batch = context->saved_data["count"].toDouble();
    std::vector<float> slope(rows.channels, 0.0F), offset(rows.channels, 0.0F);
    if (batch > 0) {  // Else mean and deviation are constants.
      add_over_ranks(sums, reinterpret_cast<Communicator*>(context->saved_data["ranks"].toInt()));
      for (std::size_t c = 0; c < rows.channels; ++c) {
        const double dweight = sums[rows.channels + c] * inverse[c];
        const double along = scale[c] * inverse[c] * dweight / batch;
        slope[c] = static_cast<float>(along);
        offset[c] = static_cast<float>(scale[c] * sums[c] / batch - along * means[c]);
      }
    }
    rows.each_part([&](std::size_t, std::size_t first, std::size_t count) {
      const std::size_t at = first * rows.channels;
      kernels::finish_backward(values + at, count, rows.channels, scale, slope.data(),
                               offset.data(), out + at);
    });
    return {dx, weight_gradient, bias_gradient, {}, {}, {}, {}};
  }
};

torch::Tensor to_floats(const std::vector<double>& values) {
  return torch::tensor(at::ArrayRef<double>(values), torch::kDouble).to(torch::kFloat);
}

}  // namespace

torch::Tensor norm_act(SyncNormImpl& norm, const torch::Tensor& x) {
  // A trace holds torch's operators only.
  const bool is_ours = !torch::jit::tracer::isTracing() && x.device().is_cpu() &&
                       x.scalar_type() == torch::kFloat && x.numel() > 0 &&
                       norm.options.momentum().has_value() && norm.options.affine();
  if (!is_ours) {
    torch::Tensor y = norm.forward(x);
    return torch::GradMode::is_enabled() ? torch::silu(y) : torch::silu_(y);
  }
  const torch::Tensor rows = channels_last(x);
  torch::Tensor mean, variance;
  double count = 0;
  if (norm.is_training()) {
    torch::NoGradGuard no_grad;
    const BatchMoments moments = combined(moments_of(rows.detach()), norm.ranks());
    remember_moments(norm, moments);
    count = moments.count;
    mean = to_floats(moments.mean);
    variance = to_floats(moments.variance);
  } else {
    mean = norm.running_mean;
    variance = norm.running_var;
  }
  const torch::Tensor inverse_deviation = (variance + norm.options.eps()).rsqrt();
  if (!torch::GradMode::is_enabled()) {
    return write_silu(rows, Affine(norm.weight, norm.bias, mean, inverse_deviation), rows);
  }
  return NormAct::apply(rows, norm.weight, norm.bias, mean.detach(), inverse_deviation, count,
                        reinterpret_cast<std::int64_t>(norm.ranks()));
}

}  // namespace trainer
