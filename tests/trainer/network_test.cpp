// SPDX-License-Identifier: GPL-3.0-or-later
#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "tests/trainer/reference_numbers.h"
#include "trainer/assigner.h"
#include "trainer/batch_step.h"
#include "trainer/boxes.h"
#include "trainer/communicator.h"
#include "trainer/ema.h"
#include "trainer/loss.h"
#include "trainer/model.h"
#include "trainer/optimizer.h"
#include "trainer/replica.h"
#include "trainer/sync_norm.h"

namespace trainer {
namespace {

std::int64_t parameter_count(const DetectionModel& model) {
  std::int64_t count = 0;
  for (const torch::Tensor& parameter : model.parameters()) count += parameter.numel();
  return count;
}

// A model whose tensors follow the reference's formula.
std::shared_ptr<DetectionModel> filled_model(const std::string& name) {
  torch::NoGradGuard no_grad;
  auto model = std::make_shared<DetectionModel>(name, 80);
  for (const auto& [key, tensor] : state_tensors(*model)) {
    tensor.copy_(reference::filled(key, tensor));
  }
  return model;
}

// The targets of a case of fwd_*.json, as a batch has them.
torch::Tensor targets_of(const nlohmann::json& targets) {
  const auto images = targets.at("batch_idx").get<std::vector<float>>();
  torch::Tensor rows = torch::zeros({static_cast<std::int64_t>(images.size()), 6});
  for (std::size_t i = 0; i < images.size(); ++i) {
    auto* row = rows.data_ptr<float>() + 6 * i;
    row[0] = images[i];
    row[1] = targets.at("cls").at(i).at(0).get<float>();
    for (std::size_t j = 0; j < 4; ++j) row[2 + j] = targets.at("bboxes").at(i).at(j).get<float>();
  }
  return rows;
}

class EveryModel : public testing::TestWithParam<std::string> {};

TEST_P(EveryModel, HasTheNamesShapesAndOrderOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  const nlohmann::json expected = reference::json("arch.json").at(GetParam());
  const DetectionModel model(GetParam(), 80);

  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const auto& [key, tensor] : state_tensors(model)) shapes[key] = tensor.sizes().vec();
  std::map<std::string, std::vector<std::int64_t>> wanted;
  for (const auto& entry : expected.at("state_dict")) {
    wanted[entry.at(0)] = entry.at(1).get<std::vector<std::int64_t>>();
  }
  EXPECT_EQ(shapes, wanted);
  std::vector<std::string> names;
  for (const auto& item : model.named_parameters()) names.push_back(item.key());
  EXPECT_EQ(names, expected.at("param_names").get<std::vector<std::string>>());
  EXPECT_EQ(parameter_count(model), expected.at("params").get<std::int64_t>());
  const auto strides = expected.at("strides").get<std::vector<double>>();
  EXPECT_EQ(std::vector<double>(model.strides().begin(), model.strides().end()), strides);

  const nlohmann::json summary = reference::json("arch_summary.json").at(GetParam());
  EXPECT_EQ(parameter_count(model), summary.at("params").get<std::int64_t>());
  EXPECT_EQ(shapes.size(), summary.at("n_tensors").get<std::size_t>());
}
INSTANTIATE_TEST_SUITE_P(Reference, EveryModel, testing::ValuesIn(contract::known_models()),
                         [](const auto& each) { return each.param; });

TEST(AModel, HasAsManyParametersAsThePublicTablesSay) {
  EXPECT_EQ(parameter_count(DetectionModel("yolov8n", 80)), 3'157'200);
  EXPECT_EQ(parameter_count(DetectionModel("yolo11n", 80)), 2'624'080);
}

// Operators that were called, by name, and the multiplications of convolutions among them.
class Watched {
 public:
  Watched() {
    watched_ = this;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(begin, end)
                                             .needsInputs(true)
                                             .needsOutputs(true)
                                             .scopes({at::RecordScope::FUNCTION}));
  }
  ~Watched() { at::removeCallback(handle_); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

  std::int64_t count(const std::string& name) const {
    const auto found = counts_.find(name);
    return found == counts_.end() ? 0 : found->second;
  }
  double products() const { return products_; }

 private:
  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& call) {
    ++watched_->counts_[call.name()];
    return nullptr;
  }
  static void end(const at::RecordFunction& call, at::ObserverContext*) {
    if (std::string(call.name()) != "aten::convolution") return;
    const torch::Tensor weight = call.inputs()[1].toTensor();  // [out, in of a group, k, k]
    const torch::Tensor made = call.outputs()[0].toTensor();
    watched_->products_ +=
        static_cast<double>(made.numel()) * static_cast<double>(weight.numel() / weight.size(0));
  }

  static inline thread_local Watched* watched_ = nullptr;
  at::CallbackHandle handle_ = 0;
  std::map<std::string, std::int64_t> counts_;
  double products_ = 0;
};

// A 64-pixel image is a hundredth of one of 640. What is left of the two per cent: the published
// figures are rounded, and take in what is no convolution.
TEST(AModel, WorksAsMuchAsThePublicTablesSay) {
  torch::NoGradGuard no_grad;
  for (const std::string& name : contract::known_models()) {
    DetectionModel model(name, 80);
    model.eval();
    double products = 0;
    {
      const Watched watched;
      static_cast<void>(model.forward(torch::zeros({1, 3, 64, 64})));
      products = watched.products();
    }
    const double published = contract::published_gflops(name).value();
    EXPECT_NEAR(2 * products * 100 / 1e9, published, 0.02 * published) << name;
  }
  EXPECT_FALSE(contract::published_gflops("my.yaml"));
}

TEST(AModel, RefusesAnUnknownName) {
  EXPECT_THROW(DetectionModel("yolov8q", 80), std::invalid_argument);
  EXPECT_THROW(DetectionModel("", 80), std::invalid_argument);
}

// The models that the reference has numbers of.
class Model : public testing::TestWithParam<const char*> {};

TEST_P(Model, StartsAsTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  const nlohmann::json facts = reference::json("init_facts.json");
  const DetectionModel model(GetParam(), 80);

  const auto parameters = model.named_parameters();
  const std::string head = "model." + std::to_string(model.architecture().layers.size() - 1) + ".";
  for (std::size_t i = 0; i < 3; ++i) {
    const std::string index = std::to_string(i);
    const double box = facts.at("detect_reg_bias").at(i);
    const double cls = facts.at("detect_cls_bias_nc80").at(i);
    EXPECT_NEAR(parameters[head + "cv2." + index + ".2.bias"].sub(box).abs().max().item<double>(),
                0, 1e-6);
    EXPECT_NEAR(parameters[head + "cv3." + index + ".2.bias"].sub(cls).abs().max().item<double>(),
                0, 1e-5);
  }
  for (const auto& module : model.modules(/*include_self=*/false)) {
    const auto* norm = module->as<SyncNorm>();
    if (norm == nullptr) continue;
    ASSERT_EQ(norm->options.eps(), facts.at("bn_eps").get<double>());
    ASSERT_EQ(norm->options.momentum(), facts.at("bn_momentum").get<double>());
    ASSERT_TRUE(norm->weight.eq(1).all().item<bool>());
    ASSERT_TRUE(norm->bias.eq(0).all().item<bool>());
  }
}

TEST_P(Model, GivesTheFeaturesOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  torch::NoGradGuard no_grad;
  auto expected = reference::npz(std::string("fwd_") + GetParam() + ".npz");
  const auto model = filled_model(GetParam());
  const torch::Tensor x = reference::uniform("input.x", {2, 3, 128, 160}).to(torch::kFloat);

  model->eval();
  const auto evaluated = model->forward(x);
  const torch::Tensor decoded = model->decode(evaluated);
  model->train();
  const auto trained = model->forward(x);

  for (std::size_t i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    const std::string index = std::to_string(i);
    EXPECT_WITHIN("features, evaluation",
                  reference::difference(evaluated[i], expected["eval_feat" + index]), 5e-5);
    EXPECT_WITHIN("features, training",
                  reference::difference(trained[i], expected["train_feat" + index]), 5e-5);
  }
  EXPECT_WITHIN("decoded output", reference::difference(decoded, expected["eval_decoded"]), 5e-5);
}

TEST_P(Model, HasTheLayerAndBatchStatisticsOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  torch::NoGradGuard no_grad;
  const nlohmann::json expected = reference::json(std::string("fwd_") + GetParam() + ".json");
  const auto model = filled_model(GetParam());
  const torch::Tensor x = reference::uniform("input.x", {2, 3, 128, 160}).to(torch::kFloat);

  model->eval();
  const auto outputs = model->layer_outputs(x);
  std::size_t compared = 0;
  for (const auto& layer : expected.at("eval_layer_stats")) {
    const auto index = layer.at(0).get<std::size_t>();
    if (index >= outputs.size()) continue;  // Detect.
    SCOPED_TRACE(index);
    const torch::Tensor wide = outputs[index].to(torch::kDouble);
    ASSERT_EQ(outputs[index].sizes().vec(), layer.at(1).get<std::vector<std::int64_t>>());
    const double deviation = layer.at(3), sum = layer.at(4);
    EXPECT_NEAR(wide.mean().item<double>(), layer.at(2).get<double>(), 1e-5 * deviation);
    EXPECT_NEAR(wide.std().item<double>(), deviation, 1e-4 * deviation);
    EXPECT_NEAR(wide.abs().sum().item<double>(), sum, 1e-5 * sum);
    for (std::size_t i = 0; i < layer.at(5).size(); ++i) {
      EXPECT_NEAR(wide.flatten()[static_cast<std::int64_t>(i)].item<double>(),
                  layer.at(5).at(i).get<double>(), 1e-4 * deviation);
    }
    ++compared;
  }
  EXPECT_EQ(compared, outputs.size());

  model->train();
  static_cast<void>(model->forward(x));
  const auto buffers = model->named_buffers();
  for (const auto& [name, sums] : expected.at("bn_after_one_train_forward").items()) {
    const torch::Tensor wide = buffers[name].to(torch::kDouble);
    const double magnitude = sums.at(1);
    EXPECT_WITHIN("batch statistics, sum",
                  std::abs(wide.sum().item<double>() - sums.at(0).get<double>()) / magnitude, 2e-5)
        << name;
    EXPECT_NEAR(wide.abs().sum().item<double>(), magnitude, 2e-5 * magnitude) << name;
  }
}
INSTANTIATE_TEST_SUITE_P(Reference, Model, testing::Values("yolov8n", "yolo11n"),
                         [](const auto& each) { return std::string(each.param); });

// A model and a case of targets.
class LossCase : public testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(LossCase, HasTheLossAndGradientsOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  const std::string file = std::string("fwd_") + std::get<0>(GetParam());
  const std::string name = std::get<1>(GetParam());
  const nlohmann::json expected = reference::json(file + ".json").at("loss").at(name);
  auto arrays = reference::npz(file + ".npz");
  const auto model = filled_model(std::get<0>(GetParam()));
  model->train();
  const torch::Tensor x = reference::uniform("input.x", {2, 3, 128, 160}).to(torch::kFloat);

  auto features = model->forward(x);
  for (torch::Tensor& map : features) map.retain_grad();
  const LossValue loss =
      detection_loss(features, model->strides(), targets_of(expected.at("targets")), {}, 2,
                     of_this_rank_alone);
  loss.total.backward();

  const double total = expected.at("total");
  EXPECT_WITHIN("loss", std::abs(loss.total.item<double>() - total) / total, 2e-5);
  for (int i = 0; i < 3; ++i) {
    const double item = expected.at("items").at(static_cast<std::size_t>(i));
    EXPECT_WITHIN("loss parts", std::abs(loss.items[i].item<double>() - item) / (item + 5e-5), 2e-5)
        << i;
    const std::string key = name + "_dfeat" + std::to_string(i);
    if (arrays.contains(key)) {
      EXPECT_WITHIN(
          "gradients of the features",
          reference::difference(features[static_cast<std::size_t>(i)].grad(), arrays[key]), 5e-5);
    }
  }
  for (const auto& item : model->named_parameters()) {
    if (!item.value().requires_grad()) continue;
    const double norm = expected.at("grad_norms").at(item.key());
    // The floor: the true gradient of some biases of yolo11n is 0, its record is rounding noise.
    EXPECT_WITHIN("gradients, norm of each",
                  std::abs(item.value().grad().norm().item<double>() - norm) / (norm + 1e-2), 1e-4)
        << item.key();
    const std::string key = name + "_grad." + item.key();
    if (arrays.contains(key)) {
      EXPECT_WITHIN("gradients, elements", reference::difference(item.value().grad(), arrays[key]),
                    1e-4)
          << item.key();
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Reference, LossCase,
                         testing::Combine(testing::Values("yolov8n", "yolo11n"),
                                          testing::Values("normal", "one_empty_image", "empty",
                                                          "crowded")),
                         [](const auto& each) {
                           return std::string(std::get<0>(each.param)) + "_" +
                                  std::get<1>(each.param);
                         });

// The form for GPUs, on the CPU: the same loss and gradients but for the order of the sums.
TEST_P(LossCase, OfAllCellsIsTheSame) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  const std::string name = std::get<0>(GetParam());
  const nlohmann::json cases = reference::json("fwd_" + name + ".json").at("loss");
  const torch::Tensor targets = targets_of(cases.at(std::get<1>(GetParam())).at("targets"));
  const auto model = filled_model(name);
  model->train();
  std::vector<torch::Tensor> features;
  for (const torch::Tensor& map :
       model->forward(reference::uniform("input.x", {2, 3, 128, 160}).to(torch::kFloat))) {
    features.push_back(map.detach());
  }

  LossValue values[2];
  std::vector<torch::Tensor> slopes[2];
  for (const bool is_dense : {false, true}) {
    std::vector<torch::Tensor> own_features;
    for (const torch::Tensor& map : features) {
      own_features.push_back(map.clone().requires_grad_(true));
    }
    values[is_dense] =
        detection_loss(own_features, model->strides(), targets, {.is_dense = is_dense}, 2,
                       of_this_rank_alone);
    values[is_dense].total.backward();
    for (const torch::Tensor& map : own_features) slopes[is_dense].push_back(map.grad());
  }

  EXPECT_LE(reference::difference(values[1].items, values[0].items), 1e-6);
  for (std::size_t i = 0; i < features.size(); ++i) {
    EXPECT_LE(reference::difference(slopes[1][i], slopes[0][i]), 1e-5) << i;
  }
}

// What a GPU would make the host wait for: a value read, or a shape that depends on values.
std::int64_t waits_of(const Watched& watched) {
  std::int64_t waits = 0;
  for (const char* name : {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero",
                           "aten::masked_select", "aten::equal"}) {
    waits += watched.count(name);
  }
  return waits;
}

class EveryOptimizer : public testing::TestWithParam<OptimizerKind> {};

// As on a GPU but for its kernels: bfloat16 goes through torch's own batch norm. One rank.
TEST_P(EveryOptimizer, MakesABatchAndAStepWithoutAskingTheDevice) {
  const auto alone = make_local_communicator();
  Replica replica(contract::load_architecture("yolo11n"), 80, GetParam(), 5e-4, torch::kCPU,
                  *alone);
  replica.model().train();
  const torch::Tensor targets = torch::tensor({{0.F, 1.F, 0.5F, 0.5F, 0.4F, 0.4F},
                                               {1.F, 7.F, 0.3F, 0.3F, 0.2F, 0.2F},
                                               {1.F, 2.F, 0.6F, 0.6F, 0.5F, 0.5F}});
  StepRates rates;
  rates.lr.fill(1e-4);

  std::int64_t waits[2];
  for (const bool is_dense : {false, true}) {
    BatchStep batch(replica, *alone,
                    {.loss = {.is_dense = is_dense},
                     .global_batch = 2,
                     .amp_type = torch::kBFloat16,
                     .before_forward = nullptr});
    const torch::Tensor images = torch::rand({2, 3, 64, 64});
    const Watched watched;
    static_cast<void>(batch.forward(images, targets));
    static_cast<void>(batch.backward(Replica::Backward::kStepFollows));
    replica.step(rates, 1);
    waits[is_dense] = waits_of(watched);
  }

  EXPECT_EQ(waits[1], 0);
  EXPECT_GT(waits[0], 0);  // The form for CPUs asks, which shows that asking is seen.
}
INSTANTIATE_TEST_SUITE_P(Step, EveryOptimizer,
                         testing::Values(OptimizerKind::kSgd, OptimizerKind::kMuSgd,
                                         OptimizerKind::kAdam, OptimizerKind::kAdamW,
                                         OptimizerKind::kAdamax, OptimizerKind::kNAdam,
                                         OptimizerKind::kRAdam, OptimizerKind::kRmsProp),
                         [](const auto& each) { return std::string(name_of(each.param)); });

class AssignerCase : public testing::TestWithParam<const char*> {};

TEST_P(AssignerCase, AssignsAsTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  auto in = reference::npz(std::string("tal_") + GetParam() + ".npz");

  for (const bool is_dense : {false, true}) {
    const Assignment out = assign(in["pd_scores"], in["pd_bboxes"], in["anc_points"],
                                  in["gt_labels"].squeeze(-1).to(torch::kLong), in["gt_bboxes"],
                                  in["mask_gt"].squeeze(-1) > 0, {.is_dense = is_dense});
    SCOPED_TRACE(is_dense ? "all cells" : "cells inside");

    EXPECT_TRUE(torch::equal(out.foreground, in["out_fg"]));
    EXPECT_TRUE(torch::equal(out.object.masked_select(out.foreground),
                             in["out_gt_idx"].masked_select(out.foreground)) ||
                GetParam() == std::string("one_empty_image"));
    EXPECT_WITHIN("assigner, scores", reference::difference(out.scores, in["out_scores"]), 5e-5);
    EXPECT_TRUE(
        torch::equal(out.boxes.index({out.foreground}), in["out_bboxes"].index({out.foreground})));
  }
}
INSTANTIATE_TEST_SUITE_P(Reference, AssignerCase,
                         testing::Values("normal", "one_empty_image", "crowded"),
                         [](const auto& each) { return std::string(each.param); });

TEST(Assigner, LeavesEverythingBackgroundWithoutObjects) {
  const Assignment out = assign(torch::rand({2, 5, 3}), torch::rand({2, 5, 4}), torch::rand({5, 2}),
                                torch::zeros({2, 0}, torch::kLong), torch::zeros({2, 0, 4}),
                                torch::zeros({2, 0}, torch::kBool));

  EXPECT_FALSE(out.foreground.any().item<bool>());
  EXPECT_EQ(out.scores.sum().item<float>(), 0);
}

TEST(Boxes, OverlapAndItsGradientAreThoseOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  auto arrays = reference::npz("misc.npz");
  torch::Tensor a = arrays["a"].clone().set_requires_grad(true);

  const torch::Tensor overlap = complete_iou(a, arrays["b"]);
  overlap.sum().backward();

  EXPECT_WITHIN("CIoU", reference::difference(overlap.detach(), arrays["iou_CIoU"].squeeze(-1)),
                1e-5);
  EXPECT_WITHIN("CIoU, gradient", reference::difference(a.grad(), arrays["ciou_grad_a"]), 1e-4);
}

TEST(Boxes, DistributionLossIsThatOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  auto arrays = reference::npz("misc.npz");
  torch::Tensor logits = arrays["dfl_pred"].clone().set_requires_grad(true);

  const torch::Tensor loss =
      distribution_focal_loss(logits.view({6, 4 * kRegMax}), arrays["dfl_target"]);
  loss.sum().backward();

  EXPECT_WITHIN("DFL", reference::difference(loss.detach(), arrays["dfl_loss"].squeeze(-1)), 1e-5);
  EXPECT_WITHIN("DFL, gradient", reference::difference(logits.grad(), arrays["dfl_grad"]), 1e-4);
}

TEST(Boxes, DistancesAndCornersAreInverse) {
  const torch::Tensor points = torch::tensor({{2.5F, 3.5F}, {0.5F, 0.5F}});
  const torch::Tensor distances = torch::tensor({{1.F, 2.F, 3.F, 4.F}, {0.5F, 0.5F, 0.5F, 0.5F}});

  const torch::Tensor boxes = boxes_from_distances(points, distances);

  EXPECT_TRUE(torch::allclose(distances_from_boxes(points, boxes, 15), distances));
  EXPECT_TRUE(torch::allclose(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes));
}

// Ten steps, of which only the first three are held tightly: batch norm and the optimiser make
// rounding grow. With other instruction sets or threads the same program, yolo11n, ends between 108
// and 121 at the tenth step, where the reference recorded 116.
class Trajectory : public testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(Trajectory, IsThatOfTheReference) {
  SKIP_WITHOUT_REFERENCE("arch.json");
  const std::string name = std::get<0>(GetParam()), kind = std::get<1>(GetParam());
  const nlohmann::json run = reference::json("traj.json").at(name + "_" + kind);
  const nlohmann::json cases = reference::json("fwd_" + name + ".json").at("loss");
  const bool is_sgd = kind == "SGD";
  const auto model = filled_model(name);
  const auto average = filled_model(name);
  model->train();
  Optimizer optimizer(*model, is_sgd ? OptimizerKind::kSgd : OptimizerKind::kAdamW, 5e-4);
  StepRates rates;
  rates.lr.fill(run.at("lr"));
  rates.momentum = run.at("momentum");

  // The reference ran on one thread. With two, other kernels for 1x1 convolutions come nearer to
  // its sums: the first steps of AdamW divide each gradient by its own size, so that rounding noise
  // around 0 becomes a step of full length. With one thread, and gradients as near as 5e-5, the
  // third loss was 6e-3 off.
  const struct Threads {
    explicit Threads(int count) : before(at::get_num_threads()) { torch::set_num_threads(count); }
    ~Threads() { torch::set_num_threads(before); }
    int before;
  } threads(2);
  constexpr std::size_t kSteps = 10, kTightSteps = 3;
  for (std::size_t step = 0; step < kSteps; ++step) {
    const bool is_tight = step < kTightSteps;
    const bool is_steady = name == "yolov8n";
    // Another order of the sums in batch norm alone moved the tenth loss of yolov8n with AdamW from
    // below 3e-2 to 3.7e-2 off the reference.
    const double first_bound = is_sgd ? 1e-3 : 1e-2;
    // The late bounds of AdamW find what runs away, no more: the steps are held against libtorch's
    // own elsewhere, to 1e-6.
    const double late_bound = is_sgd ? (is_steady ? 6e-2 : 1.5e-1) : 3e-1;
    const double late_norm_bound = is_sgd ? (is_steady ? 1e-1 : 1.0) : 2.0;
    const double total_bound = is_tight ? first_bound : late_bound;
    const double norm_bound = is_tight ? 3 * first_bound : late_norm_bound;
    const double sum_bound = is_tight ? 1e-5 : is_sgd ? 5e-5 : 5e-4;
    const std::string quantity = "trajectory of " + name + " with " + kind +
                                 (is_tight ? ", steps 0 to 2: " : ", to step 9: ");
    SCOPED_TRACE(step);
    const nlohmann::json expected = run.at("steps").at(step);
    const torch::Tensor x =
        reference::uniform(step % 2 == 0 ? "traj.x0" : "traj.x1", {2, 3, 96, 96}).to(torch::kFloat);
    const torch::Tensor targets =
        targets_of(cases.at(step % 2 == 0 ? "normal" : "crowded").at("targets"));
    optimizer.zero_grad();
    const LossValue loss = detection_loss(model->forward(x), model->strides(), targets, {}, 2,
                                          of_this_rank_alone);
    loss.total.backward();
    const double norm = optimizer.clip_gradients(10).item<double>();
    optimizer.step(rates);
    update_ema(*average, *model, static_cast<std::int64_t>(step) + 1);

    const double total = expected.at("total"), recorded_norm = expected.at("grad_norm_before_clip");
    EXPECT_WITHIN(quantity + "loss", std::abs(loss.total.item<double>() - total) / total,
                  total_bound);
    EXPECT_WITHIN(quantity + "gradient norm", std::abs(norm - recorded_norm) / recorded_norm,
                  norm_bound);
    double parameters = 0, averaged = 0;
    for (const auto& item : model->parameters()) {
      parameters += item.to(torch::kDouble).abs().sum().item<double>();
    }
    for (const auto& [key, tensor] : state_tensors(*average)) {
      if (tensor.is_floating_point())
        averaged += tensor.to(torch::kDouble).abs().sum().item<double>();
    }
    EXPECT_WITHIN(quantity + "sum of averages",
                  std::abs(averaged / expected.at("ema_abs_sum").get<double>() - 1), sum_bound);
    EXPECT_WITHIN(quantity + "sum of parameters",
                  std::abs(parameters / expected.at("param_abs_sum").get<double>() - 1), sum_bound);
  }
}
INSTANTIATE_TEST_SUITE_P(Reference, Trajectory,
                         testing::Combine(testing::Values("yolov8n", "yolo11n"),
                                          testing::Values("SGD", "AdamW")),
                         [](const auto& each) {
                           return std::string(std::get<0>(each.param)) + "_" +
                                  std::get<1>(each.param);
                         });

}  // namespace
}  // namespace trainer
