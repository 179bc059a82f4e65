// SPDX-License-Identifier: Apache-2.0
#include "trainer/sync_norm.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/utils.h>

#include <vector>

namespace trainer {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kChannelDim = 1;
const std::vector<std::int64_t> kOtherDims = {0, 2, 3};

torch::ScalarType type_of_sums(const torch::Tensor& x) {
  return x.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
}

std::vector<double> to_vector(const torch::Tensor& values) {
  const torch::Tensor host = values.to(torch::kCPU, torch::kDouble).contiguous();
  const auto* first = host.data_ptr<double>();
  return {first, first + host.numel()};
}

torch::Tensor to_channels(const std::vector<double>& values, const torch::Tensor& like) {
  return torch::tensor(at::ArrayRef<double>(values), torch::kDouble)
      .to(like.device(), type_of_sums(like))
      .view({1, -1, 1, 1});
}

BatchMoments moments_of(const torch::Tensor& x) {
  const torch::Tensor values = x.to(type_of_sums(x));
  const torch::Tensor mean = values.mean(kOtherDims);
  const torch::Tensor variance = (values - mean.view({1, -1, 1, 1}))
                                     .square()
                                     .mean(kOtherDims, /*keepdim=*/false, torch::kDouble);
  return {static_cast<double>(x.numel() / x.size(kChannelDim)), to_vector(mean),
          to_vector(variance)};
}

// Of torch's operators only: any device, any floating type.
class PlainNorm : public torch::autograd::Function<PlainNorm> {
 public:
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& x,
                               const torch::Tensor& weight, const torch::Tensor& bias,
                               const torch::Tensor& mean, const torch::Tensor& inverse_deviation,
                               double count, std::int64_t ranks) {
    context->save_for_backward({x, weight, mean, inverse_deviation});
    context->saved_data["count"] = count;
    context->saved_data["ranks"] = ranks;
    const torch::Tensor y = (x.to(type_of_sums(x)) - mean) * inverse_deviation;
    return (y * weight.view({1, -1, 1, 1}) + bias.view({1, -1, 1, 1})).to(x.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const torch::Tensor &x = saved[0], &weight = saved[1], &mean = saved[2],
                        &inverse_deviation = saved[3];
    const double count = context->saved_data["count"].toDouble();
    auto* ranks = reinterpret_cast<Communicator*>(context->saved_data["ranks"].toInt());

    const torch::Tensor dy = gradients[0].to(type_of_sums(x));
    const torch::Tensor away = x.to(type_of_sums(x)) - mean;
    const torch::Tensor own = torch::cat({dy.sum(kOtherDims, false, torch::kDouble),
                                          (dy * away).sum(kOtherDims, false, torch::kDouble)});
    const std::int64_t channels = x.size(kChannelDim);
    std::vector<double> sums = to_vector(own);
    add_over_ranks(sums, ranks);

    const torch::Tensor all = torch::tensor(at::ArrayRef<double>(sums), torch::kDouble)
                                  .div_(count)
                                  .to(x.device(), type_of_sums(x));
    const torch::Tensor slope = all.narrow(0, 0, channels).view({1, -1, 1, 1});
    const torch::Tensor along =
        all.narrow(0, channels, channels).view({1, -1, 1, 1}) * inverse_deviation.square();
    const torch::Tensor dx =
        (dy - slope - away * along) * (weight.view({1, -1, 1, 1}) * inverse_deviation);
    // Of this rank: the gradients are summed over the ranks later.
    const torch::Tensor dweight =
        own.narrow(0, channels, channels).to(weight.scalar_type()) * inverse_deviation.flatten();
    return {dx.to(x.scalar_type()),
            dweight.to(weight.scalar_type()),
            own.narrow(0, 0, channels).to(weight.scalar_type()),
            {},
            {},
            {},
            {}};
  }
};

}  // namespace

void SyncNormImpl::_check_input_dim(const torch::Tensor& x) {
  TORCH_CHECK(x.dim() == 4, "batch norm: ", x.dim(), " dimensions instead of 4");
}

torch::Tensor SyncNormImpl::forward(const torch::Tensor& x) {
  _check_input_dim(x);
  Communicator* const shared = ranks();
  if (shared == nullptr) {
    if (is_training()) num_batches_tracked.add_(1);
    return torch::batch_norm(x, weight, bias, running_mean, running_var, is_training(),
                             options.momentum().value(), options.eps(),
                             at::globalContext().userEnabledCuDNN());
  }
  torch::Tensor mean, inverse_deviation;
  double count = 0;
  {
    torch::NoGradGuard no_grad;
    const BatchMoments moments = combined(moments_of(x.detach()), shared);
    remember_moments(*this, moments);
    count = moments.count;
    mean = to_channels(moments.mean, x);
    inverse_deviation = (to_channels(moments.variance, x) + options.eps()).rsqrt();
  }
  return PlainNorm::apply(x, weight, bias, mean, inverse_deviation, count,
                          reinterpret_cast<std::int64_t>(shared));
}

void synchronise_norms(torch::nn::Module& module, Communicator& ranks) {
  if (auto* norm = module.as<SyncNormImpl>()) norm->synchronise(ranks);
  for (const auto& each : module.modules(/*include_self=*/false)) {
    if (auto* norm = each->as<SyncNormImpl>()) norm->synchronise(ranks);
  }
}

void remember_moments(SyncNormImpl& norm, const BatchMoments& moments) {
  torch::NoGradGuard no_grad;
  const double momentum = norm.options.momentum().value();
  const double unbiased = moments.count > 1 ? moments.count / (moments.count - 1) : 1;
  const auto of = [like = norm.running_mean.options()](const std::vector<double>& values) {
    return torch::tensor(at::ArrayRef<double>(values), torch::kDouble).to(like);
  };
  norm.num_batches_tracked.add_(1);
  norm.running_mean.mul_(1 - momentum).add_(of(moments.mean), momentum);
  norm.running_var.mul_(1 - momentum).add_(of(moments.variance), momentum * unbiased);
}

}  // namespace trainer
